//! What netgraft says where the kernel or its surroundings refuse something: one line with what and what to do,
//! status 125, and nothing hangs. Needs root: makes namespaces and device nodes in them.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_netgraft");
const REFUSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/refuse.py");
/// A program whose first trapped call would hang with half of a listener.
const SOCKET: &str = "import socket; socket.socket().close()";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts one line of netgraft's that has these parts, and status 125.
fn assert_told(what: &str, got: &Output, parts: &[&str]) {
    let errors = text(&got.stderr);
    assert_eq!(got.status.code(), Some(125), "{what}: {errors}");
    assert!(errors.starts_with("netgraft: ") && errors.lines().count() == 1, "{what}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{what}: no {part:?} in {errors}");
    }
}

#[test]
fn a_kernel_without_what_is_needed_is_told_before_the_program_starts() {
    let old = "needs Linux 5.19";
    for (call, errno, parts) in [
        ("ioctl:1=0x40182103", "EINVAL", ["SECCOMP_IOCTL_NOTIF_ADDFD", old]),
        ("ioctl:1=0x40182103", "ENOTTY", ["SECCOMP_IOCTL_NOTIF_ADDFD", old]),
        ("ioctl:1=0x40082102", "EINVAL", ["SECCOMP_IOCTL_NOTIF_ID_VALID", old]),
        ("pidfd_open", "ENOSYS", ["pidfd_open(2)", old]),
        ("pidfd_getfd", "ENOSYS", ["pidfd_getfd(2)", old]),
        ("pidfd_getfd", "EPERM", ["pidfd_getfd(2)", "container"]),
        ("process_vm_readv", "ENOSYS", ["process_vm_readv(2)", "CONFIG_CROSS_MEMORY_ATTACH"]),
        ("close_range", "ENOSYS", ["close_range(2)", old]),
        // SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL
        ("seccomp:0=1", "EINVAL", ["CONFIG_SECCOMP_FILTER", old]),
        ("seccomp:0=1", "EPERM", ["seccomp(2)", "container"]),
        ("seccomp:0=2", "EOPNOTSUPP", ["CONFIG_SECCOMP_FILTER", old]),
        ("seccomp", "ENOSYS", ["CONFIG_SECCOMP_FILTER", "seccomp(2)"]),
        ("mount", "EPERM", ["mount(2)", "container"]),
    ] {
        let mut command = Command::new("timeout");
        command.args(["60", "python3", REFUSE, call, errno, BINARY, "run", "--", "python3", "-c", SOCKET]);
        let got = command.stdin(Stdio::null()).output().unwrap();
        assert_told(&format!("{call} {errno}"), &got, &parts);
    }
}

/// Runs a shell script in network and mount namespaces of its own, in which `/dev/net/tun` has mode `$TUN`;
/// `netgraft OPTIONS` runs `true` as nobody.
fn with_tun(mode: &str, script: &str) -> Output {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(root, "this test makes device nodes: run it as root");
    // The folder of the binary may be closed to others: a copy is not.
    let setup = "mount -t tmpfs tmpfs /dev/net; mknod /dev/net/tun c 10 200; chmod $TUN /dev/net/tun
         mount -t tmpfs -o mode=755 tmpfs /mnt; cp \"$BINARY\" /mnt/netgraft; cd /; ip link set lo up
         netgraft() { setpriv --reuid 65534 --regid 65534 --clear-groups /mnt/netgraft run \"$@\" -- true; }";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "timeout", "60", "sh", "-ec", &format!("{setup}\n{script}")]);
    command.env("TUN", mode).env("BINARY", BINARY).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_link_that_cannot_be_opened_says_what_to_do() {
    let address = "--address 192.0.2.2/24";
    for (mode, script, parts) in [
        ("0600", "netgraft --link tap:x1", ["chmod 0666 /dev/net/tun", "ip tuntap add x1 mode tap user"]),
        ("0666", "netgraft --link tap:x1", ["CAP_NET_ADMIN", "ip tuntap add x1 mode tap user"]),
        ("0666", "netgraft --link tap:lo", ["no TAP device", "choose another name"]),
        (
            "0666",
            "ip tuntap add x1 mode tap user 65534; netgraft --link tap:x1",
            ["x1 is down", "ip link set x1 up"],
        ),
        (
            "0666",
            "ip tuntap add x1 mode tap user 65534; ip link set x1 up
             setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \\
                'exec /mnt/netgraft run --link tap:x1 --address 192.0.2.2/24 -- sh -c \"echo up; sleep 60\"' >/mnt/log &
             until grep -qs up /mnt/log; do sleep 0.02; done
             trap 'kill $!; wait $! || :' EXIT; netgraft --link tap:x1",
            ["in use by another program", "choose another name"],
        ),
        ("0666", "netgraft --link packet:lo", ["no Ethernet interface", "veth"]),
        (
            "0666",
            "ip link add v1 type veth peer name v2; ip link set v1 up; netgraft --link packet:v1",
            ["CAP_NET_RAW", "run as root"],
        ),
    ] {
        assert_told(script, &with_tun(mode, &format!("{script} {address}")), &parts);
    }
}

#[test]
fn a_device_that_root_made_for_a_user_works_without_privileges_and_stays() {
    let script = "ip tuntap add x1 mode tap user 65534; ip link set x1 up
         netgraft --link tap:x1 --address 192.0.2.2/24; netgraft --link tap:x1 --address 192.0.2.2/24; ip -o link";
    let got = with_tun("0666", script);
    assert!(got.status.success() && got.stderr.is_empty(), "{}", text(&got.stderr));
    assert!(text(&got.stdout).contains(": x1: "), "{}", text(&got.stdout));
}
