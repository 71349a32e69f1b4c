//! `--take-address`: the addresses of an interface are the stack's while the sandbox lives, and the kernel's again afterwards, with all
//! routes through it, which the kernel removes with them.
//!
//! A process of its own gives them back, which waits for the end of a pipe: so it does when the launcher is killed, too.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use netgraft_linux::link::packet;
use netgraft_linux::netdev::{Changes, Kept, index_of, of_interface};
use netgraft_linux::signal::Signals;
use netgraft_linux::{confine, process};
use netgraft_plugin::{Cidr, LinkConfig, StackConfig};

use crate::error::RunError;
use crate::launcher::reap;

/// What an interface had, as long as this is kept.
pub(crate) struct Taken {
    /// Closed, it makes the other process give back.
    pipe: Option<io::PipeWriter>,
    giver: i32,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pipe = None;
        reap(self.giver);
    }
}

/// The addresses of the kernel's on an interface, but for link-local ones, which do no harm.
pub(crate) fn of_kernel(name: &str) -> io::Result<Vec<Cidr>> {
    let all = packet::networks(name)?.into_iter().filter_map(|(ip, prefix)| Cidr::new(ip, prefix));
    Ok(all.filter(|cidr| !matches!(cidr.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())).collect())
}

/// Moves the addresses of a `packet:` link to the stack, with the default gateways behind it, unless the configuration has some.
///
/// # Errors
/// What is missing, in one line; the interface has all of its addresses then.
pub(crate) fn take(config: &mut StackConfig) -> Result<Taken, RunError> {
    let LinkConfig::Packet(link) = &config.link else {
        return Err(RunError::Options("--take-address goes with --link packet:IFACE".to_owned()));
    };
    let name = link.interface.as_str().to_owned();
    let failed = |e: io::Error| RunError::Options(format!("--take-address: interface {name}: {e}"));
    let addresses = of_kernel(&name).map_err(failed)?;
    if addresses.is_empty() {
        return Err(RunError::Options(format!("--take-address: interface {name} has no address to take")));
    }
    let gateways = gateways(&name);
    let index = index_of(&name).map_err(failed)?;
    let (mut end, pipe) = io::pipe().map_err(failed)?;
    let kept = end.as_raw_fd();
    let mut pipe = Some(pipe);
    let all = of_interface(index).map_err(failed)?;
    let giver = process::fork(|| {
        drop(pipe.take());
        let ready = process::new_session()
            .and_then(|()| confine::set_name(c"netgraft-giver"))
            .and_then(|()| Signals::all_but_faults().block_exactly().map(drop))
            .and_then(|()| process::close_all_but(&[kept]));
        // The end of everybody who has the other end: of the launcher, and of what it made.
        let over = ready.and_then(|()| end.read(&mut [0]));
        i32::from(over.and_then(|_| give_back(&all)).is_err())
    })
    .map_err(failed)?;
    drop(end);
    let taken = Taken { pipe, giver };
    let mut changes = Changes::new();
    addresses.iter().for_each(|cidr| changes.remove_address(index, cidr.addr(), cidr.prefix()));
    let outcomes = changes.make().map_err(failed)?;
    // A secondary address goes with the first one of its network.
    let is_gone = |outcome: &io::Result<()>| {
        outcome.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EADDRNOTAVAIL))
    };
    let outcomes = outcomes.into_iter().filter(|outcome| !is_gone(outcome));
    outcomes.collect::<io::Result<()>>().map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => RunError::Options(format!(
            "--take-address: interface {name} needs CAP_NET_ADMIN over the network namespace: run as root"
        )),
        _ => failed(e),
    })?;
    if config.addresses.is_empty() {
        config.addresses = addresses;
        if config.gateways.is_empty() {
            config.gateways = gateways;
        }
    }
    Ok(taken)
}

fn give_back(kept: &[Kept]) -> io::Result<()> {
    let mut changes = Changes::new();
    kept.iter().for_each(|kept| changes.restore(kept));
    for outcome in changes.make()? {
        match outcome {
            // It is there still, or somebody else has set it meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The default gateways of the kernel's through an interface.
fn gateways(name: &str) -> Vec<IpAddr> {
    let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let v4 = text("/proc/net/route").lines().find_map(|line| gateway_v4(line, name));
    let v6 = text("/proc/net/ipv6_route").lines().find_map(|line| gateway_v6(line, name));
    v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect()
}

/// The gateway in a line of `/proc/net/route`, if that is a default route through this interface.
fn gateway_v4(line: &str, name: &str) -> Option<Ipv4Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[interface, destination, gateway, _, _, _, _, mask, ..] = words.as_slice() else { return None };
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let fits = interface == name && number(destination)? == 0 && number(mask)? == 0 && number(gateway)? != 0;
    // As it is in memory.
    fits.then(|| number(gateway).map(|gateway| Ipv4Addr::from(gateway.to_ne_bytes())))?
}

/// The gateway in a line of `/proc/net/ipv6_route`, likewise.
fn gateway_v6(line: &str, name: &str) -> Option<Ipv6Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[_, length, _, _, gateway, _, _, _, flags, interface] = words.as_slice() else { return None };
    // RTF_GATEWAY.
    let through = u32::from_str_radix(flags, 16).ok()? & 2 != 0;
    let gateway = u128::from_str_radix(gateway, 16).ok()?;
    (interface == name && length == "00" && through && gateway != 0).then(|| Ipv6Addr::from_bits(gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_gateways_are_read_from_the_kernel_s_tables() {
        let line = "veth1\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(gateway_v4(line, "veth1"), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(gateway_v4(line, "veth2"), None);
        let net = "veth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(gateway_v4(net, "veth1"), None);
        let line = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 \
                    00000400 00000001 00000000 00000003    veth1";
        assert_eq!(gateway_v6(line, "veth1"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(gateway_v6(line, "lo"), None);
        for line in ["", "Iface Destination Gateway Flags", "a b c d e f g h i j"] {
            assert_eq!((gateway_v4(line, "b"), gateway_v6(line, "j")), (None, None));
        }
    }
}
