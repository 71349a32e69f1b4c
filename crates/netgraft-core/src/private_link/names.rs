//! What programs ask the kernel for on their datagram sockets: addresses, peers, and memberships of groups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::Domain;

use super::endpoints::any_of;
use super::{KernelSocket, plain};
use crate::codec::call::Buffer;
use crate::codec::sockaddr::{self, Given};
use crate::core::{Core, Kernel};
use crate::program::Caller;
use crate::socket::Seen;
use crate::uapi::{self, Errno};

/// What glibc and the kernel have and [`uapi`] has not (linux/in.h): options that join a group.
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
/// `struct group_req` (linux/in.h): the group is aligned behind the interface.
const GROUP_AT: usize = 8;
/// The most bytes of such an option.
const MOST: usize = 264;

impl<K: Kernel> Core<K> {
    /// The UDP socket of the kernel's that a file is, if what it is bound to is of interest.
    pub(crate) fn linked_socket(&mut self, caller: &Caller, file: &K::File) -> Option<KernelSocket> {
        if !self.links.is_any() || !self.kernel.is_udp(file) || !self.kernel.is_in_sandbox(caller) {
            return None;
        }
        Some(KernelSocket { cookie: self.kernel.cookie(file)?, local: self.kernel_name(file)? })
    }

    fn kernel_name(&mut self, file: &K::File) -> Option<SocketAddr> {
        address_of(&self.kernel.name_of_foreign(file, false).ok()?)
    }

    /// The sentry is about to bind or connect such a socket: there is to be room for it, and the stack is to have the address that it
    /// asks for as well, or neither has it.
    ///
    /// # Errors
    /// EMFILE and ENOBUFS beyond the budget, or of the stack.
    pub(crate) fn before_name(
        &mut self,
        socket: KernelSocket,
        owner: u32,
        bind: Option<&[u8]>,
    ) -> Result<(), Errno> {
        self.is_full_of_links(socket, owner).map_or(Ok(()), Err)?;
        match bind.and_then(address_of) {
            // A second time is refused by the kernel; a port of its choice is known afterwards.
            Some(local) if socket.local.port() == 0 && local.port() != 0 => {
                self.serve_kernel_socket(KernelSocket { local, ..socket }, Some(owner))
            }
            _ => Ok(()),
        }
    }

    /// The sentry has bound or connected such a socket, or has failed to.
    ///
    /// # Errors
    /// Of the stack.
    pub(crate) fn named_by_kernel(
        &mut self,
        file: &K::File,
        socket: KernelSocket,
        owner: u32,
        seen: Seen,
    ) -> Result<(), Errno> {
        let Some(local) = self.kernel_name(file) else { return Ok(()) };
        let before = plain(socket.local);
        let is_known = self.links.endpoints.places(socket.cookie).is_some();
        self.serve_kernel_socket(KernelSocket { local, ..socket }, Some(owner))?;
        if !is_known && before.port() != 0 && before.port() != plain(local).port() {
            // It has left a port that the kernel had chosen.
            self.end_port(any_of(before));
        }
        if self.told.is_some()
            && let Some(bound) = self.links.endpoints.find(plain(local))
        {
            self.tell_endpoint(bound, seen);
        }
        Ok(())
    }

    /// setsockopt(2) of a file that is not the sentry's. That a UDP socket joins a group is asked of the kernel here, and of the stack if
    /// the kernel agrees; all else is the kernel's, and answered `None`.
    pub(crate) fn membership_asked(
        &mut self,
        caller: &Caller,
        file: &K::File,
        (level, name): (i32, i32),
        value: Buffer,
    ) -> Option<Result<(), Errno>> {
        let is_meant = self.links.is_any() && joins(level, name);
        if !is_meant || !self.kernel.is_udp(file) || !self.kernel.is_in_sandbox(caller) {
            return None;
        }
        let mut bytes = [0; MOST];
        let len = usize::try_from(value.len).ok().filter(|len| *len <= MOST)?;
        let bytes = bytes.get_mut(..len)?;
        if let Err(errno) = self.kernel.read_memory(caller, value.address, bytes) {
            return Some(Err(errno));
        }
        let done = self.kernel.set_option(file, level, name, bytes);
        if done.is_ok()
            && let Some(group) = membership(level, name, bytes)
        {
            self.set_membership(group, true);
        }
        Some(done)
    }
}

/// The internet address that bytes of a program's are.
fn address_of(bytes: &[u8]) -> Option<SocketAddr> {
    let parsed = [Domain::V4, Domain::V6].into_iter().find_map(|domain| sockaddr::parse(domain, bytes).ok());
    match parsed? {
        Given::Inet(address) => Some(address),
        Given::Unspecified => None,
    }
}

/// Whether an option joins a group.
fn joins(level: i32, name: i32) -> bool {
    let both = [MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP];
    match level {
        uapi::IPPROTO_IP => {
            both.contains(&name) || [uapi::IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP].contains(&name)
        }
        uapi::IPPROTO_IPV6 => both.contains(&name) || name == uapi::IPV6_ADD_MEMBERSHIP,
        _ => false,
    }
}

/// The group that an option joins. There is one link, so that the interface is known.
fn membership(level: i32, name: i32, value: &[u8]) -> Option<IpAddr> {
    let v4 = |bytes: &[u8]| bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let v6 = |bytes: &[u8]| bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    let of_v4 = |group: Ipv4Addr| group.is_multicast().then_some(IpAddr::from(group));
    let of_v6 = |group: Ipv6Addr| group.is_multicast().then_some(IpAddr::from(group));
    match (level, name) {
        (_, MCAST_JOIN_GROUP | MCAST_JOIN_SOURCE_GROUP) => {
            let address = value.get(GROUP_AT..)?;
            let family = u16::from_ne_bytes(*address.first_chunk()?);
            match i32::from(family) {
                uapi::AF_INET => of_v4(v4(address.get(4..)?)?),
                uapi::AF_INET6 => of_v6(v6(address.get(8..)?)?),
                _ => None,
            }
        }
        (uapi::IPPROTO_IP, _) => of_v4(v4(value)?),
        (uapi::IPPROTO_IPV6, _) => of_v6(v6(value)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_every_option_that_joins_one() {
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let joined = Some(IpAddr::from(group));
        let mreq = [239, 1, 2, 3, 192, 0, 2, 1];
        assert_eq!(membership(uapi::IPPROTO_IP, uapi::IP_ADD_MEMBERSHIP, &mreq), joined);
        assert_eq!(membership(uapi::IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &mreq), joined);
        let mut request = vec![0; GROUP_AT];
        request.extend((uapi::AF_INET as u16).to_ne_bytes());
        request.extend([0, 0, 239, 1, 2, 3]);
        request.resize(136, 0);
        assert_eq!(membership(uapi::IPPROTO_IP, MCAST_JOIN_GROUP, &request), joined);
        let group: Ipv6Addr = "ff02::fb".parse().unwrap();
        let joined = Some(IpAddr::from(group));
        assert_eq!(membership(uapi::IPPROTO_IPV6, uapi::IPV6_ADD_MEMBERSHIP, &group.octets()), joined);
        assert_eq!(membership(uapi::IPPROTO_IP, uapi::IP_ADD_MEMBERSHIP, &[192, 0, 2, 1, 0, 0, 0, 0]), None);
        assert_eq!(membership(uapi::IPPROTO_IP, uapi::IP_ADD_MEMBERSHIP, &[239]), None);
        assert!(
            joins(uapi::IPPROTO_IP, MCAST_JOIN_GROUP) && !joins(uapi::IPPROTO_IP, uapi::IP_DROP_MEMBERSHIP)
        );
    }
}
