//! What a program sees of interfaces, addresses and routes agrees with its stack, whomever it asks: getifaddrs(3),
//! rtnetlink(7) through ip(8), `/proc/net`, or a socket's `ioctl`. Needs root: makes network namespaces.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const NOBODY: u32 = 65534;
const PYTHON: &str = "/usr/bin/python3";
const STACK: &str =
    "--address 192.0.2.2/24 --address 2001:db8::2/64 --gateway 192.0.2.1 --gateway 2001:db8::1";

/// The command and the script at a place that every user can reach.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        assert!(root, "this test makes network namespaces: run it as root");
        let dir = std::env::temp_dir().join(format!("netgraft-mirror-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        common::remove_at_exit(&dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_netgraft"), dir.join("netgraft")).unwrap();
        fs::write(dir.join("mirror.py"), include_str!("mirror.py")).unwrap();
        dir
    })
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", script]).current_dir("/").stdin(Stdio::null());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DIR", place()).env("PYTHON", PYTHON);
    command
}

fn run(script: &str) -> String {
    text(&sh(script).output().unwrap())
}

fn text(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out.into_owned()
}

/// Two network namespaces, the stack's and its neighbour's, joined by a veth pair with an unusual MTU; removed
/// when dropped.
struct Wire {
    stack: String,
    neighbour: String,
}

impl Wire {
    fn new() -> Wire {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("ngm{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let wire = Wire { stack: format!("{id}a"), neighbour: format!("{id}b") };
        let (a, b) = (&wire.stack, &wire.neighbour);
        run(&format!(
            "ip netns add {a}; ip netns add {b}
             ip -n {a} link add veth0 mtu 1420 type veth peer name veth1 mtu 1420 netns {b}
             ip -n {a} link set veth0 up; ip -n {b} link set veth1 up
             ip -n {b} addr add 192.0.2.1/24 dev veth1; ip -n {b} addr add 2001:db8::1/64 dev veth1 nodad"
        ));
        wire
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = sh(&format!("ip netns del {}; ip netns del {}", self.stack, self.neighbour)).status();
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

/// Checks what the script reports of `eth0`: everybody says the same of it.
fn assert_everybody_agrees(seen: &Value, mtu: u32) {
    let (libc, ioctl, ip) = (&seen["getifaddrs"]["eth0"], &seen["ioctls"]["eth0"], &seen["ip_addr"]["eth0"]);
    assert_eq!(ioctl["address"], "192.0.2.2", "{seen}");
    assert_eq!(ioctl["netmask"], "255.255.255.0");
    assert_eq!(ioctl["broadcast"], "192.0.2.255");
    assert_eq!(libc["broadcast"], ioctl["broadcast"]);
    assert_eq!((&libc["mac"], &ip["address"]), (&ioctl["mac"], &ioctl["mac"]));
    assert_eq!((&ioctl["mtu"], &ip["mtu"]), (&json!(mtu), &json!(mtu)));
    assert_eq!((&ioctl["index"], &seen["indices"]["eth0"]), (&json!(2), &json!(2)));
    let addresses = libc["addresses"].as_array().unwrap();
    for expected in [json!(["192.0.2.2", "255.255.255.0"]), json!(["2001:db8::2", "ffff:ffff:ffff:ffff::"])] {
        assert!(addresses.contains(&expected), "{addresses:?}");
    }
    let infos = ip["addr_info"].as_array().unwrap();
    assert_eq!(infos.len(), addresses.len());
    assert!(infos.iter().all(|info| info.get("tentative").is_none()), "{infos:?}");

    let gateways = |routes: &Value| -> Vec<Value> {
        let routes = routes.as_array().unwrap();
        routes.iter().filter(|r| r["dst"] == "default").map(|r| json!([r["gateway"], r["dev"]])).collect()
    };
    assert_eq!(gateways(&seen["routes4"]), [json!(["192.0.2.1", "eth0"])]);
    assert_eq!(gateways(&seen["routes6"]), [json!(["2001:db8::1", "eth0"])]);
    let of_network = |routes: &Value, dst: &str| {
        routes.as_array().unwrap().iter().filter(|r| r["dst"] == dst && r["dev"] == "eth0").count()
    };
    assert_eq!(of_network(&seen["routes4"], "192.0.2.0/24"), 1);
    assert_eq!(of_network(&seen["routes6"], "2001:db8::/64"), 1);

    assert_eq!(seen["proc_net_dev"], json!(["lo", "eth0"]));
    let default = json!(["eth0", "00000000", format!("{:08X}", u32::from_ne_bytes([192, 0, 2, 1]))]);
    assert!(seen["proc_net_route"].as_array().unwrap().contains(&default), "{}", seen["proc_net_route"]);
    assert!(seen["proc_net_if_inet6"].as_array().unwrap().contains(&json!("eth0")));
}

/// `IFF_UP`, `IFF_BROADCAST`, `IFF_RUNNING` and `IFF_MULTICAST` (netdevice(7)).
const FLAGS: u64 = 1 | 2 | 0x40 | 0x1000;

/// `IFF_NOARP`: on a private link nobody is asked for.
const NOARP: u64 = 0x80;

fn flags(seen: &Value, whom: &str, interface: &str) -> u64 {
    // IFF_LOWER_UP does not fit in what an `ioctl` answers.
    seen[whom][interface]["flags"].as_u64().unwrap() & 0xffff
}

/// `IFF_LOWER_UP`; the kernel derives IFF_RUNNING from it, with some delay.
fn has_carrier(seen: &Value) -> bool {
    seen["getifaddrs"]["eth0"]["flags"].as_u64().unwrap() & 1 << 16 != 0
}

fn assert_namespace_is_gone(seen: &Value) {
    let name = seen["namespace"].as_str().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let in_it = || {
        fs::read_dir("/proc").unwrap().flatten().any(|process| {
            fs::read_link(process.path().join("ns/net")).is_ok_and(|link| link.as_os_str() == name)
        })
    };
    while in_it() {
        assert!(Instant::now() < deadline, "a process is left in {name}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stack_on_a_link_is_seen_by_everybody() {
    let wire = Wire::new();
    let links = || run(&format!("ip -n {} -o link", wire.stack));
    let before = links();
    let script = format!(
        "exec ip netns exec {} $DIR/netgraft run --link packet:veth0 {STACK} -- $PYTHON $DIR/mirror.py 192.0.2.1 9",
        wire.stack
    );
    let output = sh(&script).output().unwrap();
    let seen = report(&output);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_everybody_agrees(&seen, 1420);
    assert!(has_carrier(&seen));
    assert_eq!(flags(&seen, "getifaddrs", "eth0"), FLAGS | NOARP);
    assert_eq!(flags(&seen, "ioctls", "eth0"), FLAGS | NOARP);
    let neighbours = run(&format!("ip -n {} neigh show 192.0.2.2", wire.neighbour));
    assert!(neighbours.contains(seen["getifaddrs"]["eth0"]["mac"].as_str().unwrap()), "{neighbours}");
    assert_namespace_is_gone(&seen);
    assert_eq!(links(), before);
}

#[test]
fn without_tun_it_is_seen_and_a_missing_carrier_is_told() {
    let wire = Wire::new();
    // `ip netns exec` has a mount namespace of its own.
    let script = format!(
        "exec ip netns exec {} sh -ec 'mount -t tmpfs tmpfs /dev/net; \
         exec $DIR/netgraft run --link packet:veth0 {STACK} -- $PYTHON $DIR/mirror.py'",
        wire.stack
    );
    let output = sh(&script).output().unwrap();
    let seen = report(&output);
    assert_everybody_agrees(&seen, 1420);
    // Whether there is one is a matter of the kernel's modules.
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = usize::from(!has_carrier(&seen));
    assert_eq!(warnings.lines().count(), lines, "{warnings}");
    assert_eq!(warnings.matches("no carrier").count(), lines, "{warnings}");
    assert_namespace_is_gone(&seen);
}

#[test]
fn it_is_seen_in_a_user_namespace_of_an_ordinary_user() {
    let script = format!(
        "exec unshare --user --map-root-user --net sh -ec '
             ip link add veth0 mtu 1420 type veth peer name veth1; ip link set veth0 up; ip link set veth1 up
             exec $DIR/netgraft run --link packet:veth0 {STACK} -- $PYTHON $DIR/mirror.py'"
    );
    let output = sh(&script).uid(NOBODY).gid(NOBODY).output().unwrap();
    let seen = report(&output);
    assert_everybody_agrees(&seen, 1420);
    // Whether it may use /dev/net/tun is a matter of the machine; if not, it is told.
    let warned = String::from_utf8_lossy(&output.stderr).contains("no carrier");
    assert_ne!(has_carrier(&seen), warned, "{}", String::from_utf8_lossy(&output.stderr));
    assert_namespace_is_gone(&seen);
}

#[test]
fn with_host_sockets_the_host_s_interfaces_are_seen_by_everybody() {
    let wire = Wire::new();
    run(&format!("ip -n {} addr add 192.0.2.2/24 dev veth0", wire.stack));
    for user in [0, NOBODY] {
        let script = format!(
            "exec ip netns exec {} setpriv --reuid {user} --regid {user} --clear-groups \
             $DIR/netgraft run --network host -- $PYTHON $DIR/mirror.py",
            wire.stack
        );
        let output = sh(&script).output().unwrap();
        let seen = report(&output);
        // A device without a carrier is as good as any here: no warning.
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let (libc, ioctl) = (&seen["getifaddrs"]["veth0"], &seen["ioctls"]["veth0"]);
        assert!(
            libc["addresses"].as_array().unwrap().contains(&json!(["192.0.2.2", "255.255.255.0"])),
            "{user}: {seen}"
        );
        assert_eq!((&libc["mac"], &seen["ip_addr"]["veth0"]["mtu"]), (&ioctl["mac"], &json!(1420)));
        assert_eq!(seen["indices"]["veth0"], ioctl["index"]);
        assert_namespace_is_gone(&seen);
    }
}

#[test]
fn without_a_link_there_is_the_loopback_only() {
    for user in [0, NOBODY] {
        for network in ["none", "sandbox"] {
            let script = format!("exec $DIR/netgraft run --network {network} -- $PYTHON $DIR/mirror.py");
            let output = sh(&script).uid(user).gid(user).output().unwrap();
            let seen = report(&output);
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            assert_eq!(seen["indices"], json!({"lo": 1}), "{user} {network}");
            assert_eq!(seen["proc_net_dev"], json!(["lo"]));
            let names = |whom: &str| seen[whom].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(
                (names("getifaddrs"), names("ioctls")),
                (vec!["lo".to_owned()], vec!["lo".to_owned()])
            );
            assert_eq!(seen["ioctls"]["lo"]["address"], "127.0.0.1");
            assert_eq!(seen["ioctls"]["lo"]["mtu"], seen["ip_addr"]["lo"]["mtu"]);
            assert_eq!(flags(&seen, "ioctls", "lo"), flags(&seen, "getifaddrs", "lo"), "{user} {network}");
            assert_eq!(seen["routes4"], json!([]));
        }
    }
}
