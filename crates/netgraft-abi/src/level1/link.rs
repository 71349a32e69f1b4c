//! The link of a level 1 stack: netgraft opens it, and the object gets the descriptor.

use std::os::fd::OwnedFd;

use netgraft_linux::link::{Device, OpenError, Packet, Tap, packet};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{LinkConfig, StackConfig};

/// A link that is open.
pub(super) struct OpenLink {
    /// What `netgraft.h` says of `struct netgraft_handover`: kind, name, hardware address and MTU.
    pub(super) text: String,
    pub(super) fd: OwnedFd,
}

/// Opens what the operator chose, with the launcher's rights; `None` for no link.
///
/// # Errors
/// What is missing, for the operator.
pub(super) fn open(config: &StackConfig) -> Result<Option<OpenLink>, SetupError> {
    let failed = |error: OpenError| SetupError::new(error.to_string());
    let (kind, device, fd) = match &config.link {
        LinkConfig::Tap(tap) => {
            let (tap, device) = Tap::open(tap.name.as_str(), None).map_err(failed)?;
            ("tap", device, tap.into_fd())
        }
        LinkConfig::Packet(packet) => {
            let name = packet.interface.as_str();
            let have =
                packet::addresses(name).map_err(|e| SetupError::host(format!("interface {name}"), e))?;
            if let Some(cidr) = config.addresses.iter().find(|cidr| have.contains(&cidr.addr())) {
                return Err(SetupError::new(format!(
                    "interface {name} has the address {} itself, so the kernel would answer for it: ip addr del \
                     {cidr} dev {name}",
                    cidr.addr()
                )));
            }
            let (packet, device) = Packet::open(name).map_err(failed)?;
            ("packet", device, packet.into_fd())
        }
        _ => return Ok(None),
    };
    Ok(Some(OpenLink { text: describe(kind, &device), fd }))
}

fn describe(kind: &str, device: &Device) -> String {
    let mac = device.mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("{kind} {} {mac} {}", device.name, device.mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_described_as_the_header_says() {
        let device = Device { name: "t0".to_owned(), mac: [2, 0, 0xab, 0, 0, 1], mtu: 1500 };
        assert_eq!(describe("tap", &device), "tap t0 02:00:ab:00:00:01 1500");
    }
}
