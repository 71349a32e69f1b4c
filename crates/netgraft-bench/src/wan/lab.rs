//! Three namespaces in a row: the side under test, the line, the native peer.
//!
//! There are two lanes, as in [`crate::lab`]: on one the kernel has addresses at both ends; on the other the side's end is
//! bare, for a stack that takes its frames through AF_PACKET.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use crate::error::{Doing, Error, Result};
use crate::lab::{Namespace, ip, sweep};
use crate::side::Side;

// Addresses that RFC 2544 sets aside for benchmarks.
const LANES: [Lane; 2] = [
    Lane {
        name: "native",
        peer: Ipv4Addr::new(198, 18, 1, 1),
        side: Ipv4Addr::new(198, 18, 1, 2),
        bare: false,
    },
    Lane {
        name: "stack",
        peer: Ipv4Addr::new(198, 18, 2, 1),
        side: Ipv4Addr::new(198, 18, 2, 2),
        bare: true,
    },
];

struct Lane {
    name: &'static str,
    peer: Ipv4Addr,
    side: Ipv4Addr,
    /// Whether the side's kernel has no address.
    bare: bool,
}

/// The namespaces. Dropping it removes them.
pub(super) struct WanLab {
    pub(super) peer: Namespace,
    pub(super) line: Namespace,
    pub(super) side: Namespace,
}

/// How a side is reached.
pub(super) struct Attachment {
    /// Where the peer listens.
    pub(super) peer: IpAddr,
    /// Options of `netgraft run`.
    pub(super) options: Vec<String>,
    /// The line's interfaces, towards the side and towards the peer.
    pub(super) interfaces: [String; 2],
}

impl WanLab {
    /// Makes the namespaces and their interfaces.
    ///
    /// # Errors
    /// `ip` (iproute2) is missing, or the caller is not root.
    pub(super) fn new() -> Result<WanLab> {
        sweep()?;
        let lab = WanLab {
            peer: Namespace::new("peer")?,
            line: Namespace::new("line")?,
            side: Namespace::new("side")?,
        };
        for end in [&lab.peer, &lab.side] {
            // What one flow has learnt of the line must not help the next one.
            set(end, "net/ipv4/tcp_no_metrics_save", "1")?;
        }
        for lane in &LANES {
            for (end, place, address) in
                [(&lab.peer, "peer", Some(lane.peer)), (&lab.side, "side", (!lane.bare).then_some(lane.side))]
            {
                let (outer, inner) = (format!("wan-{}", lane.name), format!("{}-{place}", lane.name));
                let (end_name, line) = (&end.name, &lab.line.name);
                ip(&[
                    "link", "add", &outer, "netns", end_name, "type", "veth", "peer", "name", &inner,
                    "netns", line,
                ])?;
                for (namespace, link) in [(end, &outer), (&lab.line, &inner)] {
                    // The line's kernel takes no part, nor does a bare end's.
                    namespace.ip(&["link", "set", link, "addrgenmode", "none"])?;
                    namespace.ip(&["link", "set", link, "up"])?;
                }
                if let Some(address) = address {
                    end.ip(&["address", "add", &format!("{address}/24"), "dev", &outer])?;
                }
            }
        }
        Ok(lab)
    }

    /// How a side is attached to its peer.
    pub(super) fn attach(side: &Side) -> Attachment {
        let lane = &LANES[usize::from(side.takes_a_link())];
        let options = if lane.bare {
            let words =
                ["--link", &format!("packet:wan-{}", lane.name), "--address", &format!("{}/24", lane.side)];
            words.map(str::to_owned).to_vec()
        } else {
            Vec::new()
        };
        let interfaces = ["side", "peer"].map(|place| format!("{}-{place}", lane.name));
        Attachment { peer: lane.peer.into(), options, interfaces }
    }
}

/// Sets a sysctl in a namespace.
fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let script = format!("echo {value} >/proc/sys/{name}");
    let status = Command::new("ip").args(["netns", "exec", &namespace.name, "sh", "-c", &script]).status();
    if status.doing(|| "starting ip (of iproute2)")?.success() {
        Ok(())
    } else {
        Err(Error::Failed(format!("{name} cannot be set in the namespace {}", namespace.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_has_the_bare_lane_and_the_kernel_the_other() {
        let stack = WanLab::attach(&Side::Sandbox);
        assert_eq!(stack.options.join(" "), "--link packet:wan-stack --address 198.18.2.2/24");
        assert_eq!(stack.interfaces, ["stack-side", "stack-peer"]);
        let native = WanLab::attach(&Side::Native);
        assert!(native.options.is_empty() && native.interfaces == ["native-side", "native-peer"]);
        // IFNAMSIZ with its zero byte.
        assert!(native.interfaces.iter().chain(&stack.interfaces).all(|name| name.len() < 16));
    }
}
