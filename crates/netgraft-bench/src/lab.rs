//! Two network namespaces joined by veth pairs, for what crosses a link.
//!
//! One namespace holds the native peer, the other the side under test. There are two pairs: on one the
//! kernel has addresses at both ends; on the other only at the peer's end, because the stack under
//! test takes the frames of the bare end through AF_PACKET.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use crate::error::{Doing, Error, Result};
use crate::side::Side;

// Addresses that RFC 2544 sets aside for benchmarks.
const NATIVE_PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const NATIVE_SIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const STACK_PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
const STACK_SIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const NATIVE_LINK: &str = "bench-native";
const STACK_LINK: &str = "bench-stack";
const PREFIX: &str = "netgraft-bench-";

/// What joins a stack under test to its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Uplink {
    /// The bare end of a veth pair.
    #[default]
    Packet,
    /// passt, in the namespace of the side under test; nothing can be dialed through it.
    Passt,
}

/// The two namespaces. Dropping it removes them and with them the links.
pub(crate) struct Lab {
    peer: Namespace,
    side: Namespace,
    pub(crate) uplink: Uplink,
}

/// How a side is reached, and how it reaches its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// The peer's address on the side's link.
    pub(crate) peer: IpAddr,
    /// The side's own address.
    pub(crate) own: IpAddr,
    /// Options of `netgraft run` that give the stack its link.
    pub(crate) options: Vec<String>,
}

impl Lab {
    /// Makes the namespaces and links.
    ///
    /// # Errors
    /// `ip` (iproute2) is missing, or the caller is not root.
    pub(crate) fn new(uplink: Uplink) -> Result<Self> {
        sweep()?;
        let lab = Self { peer: Namespace::new("peer")?, side: Namespace::new("side")?, uplink };
        for link in [NATIVE_LINK, STACK_LINK] {
            let (peer, side) = (&lab.peer.name, &lab.side.name);
            ip(&["link", "add", link, "netns", peer, "type", "veth", "peer", "name", link, "netns", side])?;
        }
        for (namespace, link, address) in [
            (&lab.peer, NATIVE_LINK, Some(NATIVE_PEER)),
            (&lab.side, NATIVE_LINK, Some(NATIVE_SIDE)),
            (&lab.peer, STACK_LINK, Some(STACK_PEER)),
            (&lab.side, STACK_LINK, None),
        ] {
            // No IPv6 address of its own either: the kernel must not answer for the stack.
            namespace.ip(&["link", "set", link, "addrgenmode", "none"])?;
            if let Some(address) = address {
                namespace.ip(&["address", "add", &format!("{address}/24"), "dev", link])?;
            }
            namespace.ip(&["link", "set", link, "up"])?;
        }
        if uplink == Uplink::Passt {
            // What passt and pasta offer is what is here, and they look for a default route.
            lab.side.ip(&["link", "set", "lo", "up"])?;
            lab.side.ip(&["route", "add", "default", "via", &NATIVE_PEER.to_string()])?;
        }
        Ok(lab)
    }

    /// The namespace of the native peer.
    pub(crate) fn peer(&self) -> &str {
        &self.peer.name
    }

    /// The namespace of the side under test.
    pub(crate) fn side(&self) -> &str {
        &self.side.name
    }

    /// How a side is attached to its peer.
    pub(crate) fn attach(uplink: Uplink, side: &Side) -> Attachment {
        if side.takes_a_link() && uplink == Uplink::Passt {
            let options = ["--link", "passt"].map(str::to_owned).to_vec();
            Attachment { peer: NATIVE_PEER.into(), own: NATIVE_SIDE.into(), options }
        } else if side.takes_a_link() {
            let words = ["--link", &format!("packet:{STACK_LINK}"), "--address", &format!("{STACK_SIDE}/24")];
            let options = words.map(str::to_owned).to_vec();
            Attachment { peer: STACK_PEER.into(), own: STACK_SIDE.into(), options }
        } else {
            Attachment { peer: NATIVE_PEER.into(), own: NATIVE_SIDE.into(), options: Vec::new() }
        }
    }
}

/// A network namespace that goes away when it is dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Makes one; the role is one that [`sweep`] knows.
    pub(crate) fn new(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, words: &[&str]) -> Result<()> {
        ip(&[&["-netns", self.name.as_str()], words].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("netgraft-bench: {error}");
        }
    }
}

/// Removes the namespaces of a run that was killed before it could.
pub(crate) fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if owner(name).is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            ip(&["netns", "delete", name])?;
        }
    }
    Ok(())
}

/// The process that made a namespace, if it was one of this program.
fn owner(name: &str) -> Option<u32> {
    let (pid, role) = name.strip_prefix(PREFIX)?.split_once('-')?;
    if matches!(role, "peer" | "side" | "line") { pid.parse().ok() } else { None }
}

/// Runs `ip` of iproute2.
pub(crate) fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().doing(|| "starting ip (of iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let (words, complaint) = (words.join(" "), complaint.trim());
    Err(Error::Failed(format!("ip {words}: {complaint} (links between namespaces need root)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_namespaces_have_an_owner() {
        assert_eq!(owner("netgraft-bench-17-peer"), Some(17));
        assert_eq!(owner("netgraft-bench-17-other"), None);
        assert_eq!(owner("netgraft-bench-x-peer"), None);
        assert_eq!(owner("blue"), None);
    }

    #[test]
    fn a_stack_gets_the_bare_link() {
        let attachment = Lab::attach(Uplink::Packet, &Side::Sandbox);
        assert_eq!(attachment.options.join(" "), "--link packet:bench-stack --address 198.18.2.2/24");
        assert!(Lab::attach(Uplink::Packet, &Side::Native).options.is_empty());
        let passt = Lab::attach(Uplink::Passt, &Side::Sandbox);
        assert_eq!(
            (passt.options.as_slice(), passt.peer),
            (&["--link".to_owned(), "passt".to_owned()][..], NATIVE_PEER.into())
        );
        assert!(Lab::attach(Uplink::Passt, &Side::Pasta).options.is_empty());
        assert_ne!(Lab::attach(Uplink::Packet, &Side::Host).own, attachment.own);
    }
}
