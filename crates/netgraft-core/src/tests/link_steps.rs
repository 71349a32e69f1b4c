//! Any steps of what a private link sees: frames of the program's kernel, its sockets, lists of them, and what comes for them. It
//! panics at nothing, and what stands for sockets goes with them.

use std::net::SocketAddr;

use netgraft_plugin::Protocol;

use super::fake::rig::{Rig, addr};
use crate::Budget;
use crate::private_link::{KernelSocket, PrivateLink};
use crate::route::{Always, Route};
use crate::surrogate::Cookie;

/// The most sockets of a sandbox here.
const SOCKETS: usize = 24;
/// Bytes of a step; a frame has as many behind it as it says.
const STEP: usize = 4;

/// Plays the steps that these bytes are.
///
/// # Panics
/// If an invariant does not hold.
pub(crate) fn play(bytes: &[u8]) {
    let budget = Budget { sockets: SOCKETS, process_sockets: 8, memory: 1 << 30, bytes: 1 << 20 };
    let mut rig = Rig::with(Box::new(Always(Route::Kernel)), budget);
    rig.core.expect_private_links();
    rig.core.add_private_link(PrivateLink { interface: 2, mac: [2, 0, 0, 0, 0, 9], mtu: 1500 });
    let mut rest = bytes;
    while let Some((&[kind, a, b, c], after)) = rest.split_first_chunk::<STEP>() {
        rest = after;
        let socket = KernelSocket { cookie: Cookie(u64::from(a % 16)), local: place(b, c) };
        match kind % 6 {
            0 => {
                let frame;
                (frame, rest) = rest.split_at(usize::from(a).min(rest.len()));
                rig.core.frame_of_program(2, &mixed(b, c, frame));
            }
            1 => {
                let owner = u32::from(a % 4);
                if rig.core.before_name(socket, owner, None).is_ok() {
                    let _ = rig.core.serve_kernel_socket(socket, Some(owner));
                }
            }
            2 => rig.core.datagram_socket_closed(socket),
            3 => {
                let mark = rig.core.mark_datagram_sockets().saturating_sub(u64::from(b % 8));
                let is_whole = c % 2 == 0;
                rig.core.datagram_sockets_are(&[socket], is_whole.then_some(mark));
            }
            4 => {
                let _ = rig.net().arrives(addr("198.51.100.1:53"), place(b, c), &[a; 9]);
            }
            _ => rig.settle(),
        }
        // Beside them are those that join groups.
        assert!(rig.net().socks.len() <= SOCKETS + 2, "{} sockets", rig.net().socks.len());
    }
    rig.settle();
    let mark = rig.core.mark_datagram_sockets();
    rig.core.datagram_sockets_are(&[], Some(mark));
    let net = rig.net();
    let left = net.socks.values().filter(|sock| sock.spec.protocol == Protocol::Udp && sock.local.is_some());
    assert_eq!(left.count(), 0, "what stands for sockets that are gone");
}

/// A local address of a socket.
fn place(which: u8, port: u8) -> SocketAddr {
    let ip = ["0.0.0.0", "192.0.2.1", "::", "127.0.0.1", "239.1.2.3"][usize::from(which % 5)];
    SocketAddr::new(ip.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()), u16::from(port % 32) * 100)
}

/// A datagram with bytes of it changed, or a frame that is nothing but these.
fn mixed(from: u8, how: u8, bytes: &[u8]) -> Vec<u8> {
    let len = 28 + bytes.len() as u16;
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, [17, 17, 17, 1, 2][usize::from(how % 5)], 0, 0, 192, 0, 2, 1]);
    frame.extend([[198, 51, 100, 1], [224, 0, 0, 22], [239, 1, 2, 3]][usize::from(how % 3)]);
    frame.extend([0x9c, from, 0, 53]);
    frame.extend((len - 20).to_be_bytes());
    frame.extend([0, 0]);
    match how % 4 {
        0 => frame.extend(bytes),
        1 => frame.splice(12.., bytes.iter().copied()).for_each(drop),
        2 => frame.splice(34.., bytes.iter().copied()).for_each(drop),
        _ => {
            for pair in bytes.chunks_exact(2) {
                if let Some(byte) = frame.get_mut(usize::from(pair[0])) {
                    *byte = pair[1];
                }
            }
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::super::fake::prng::Prng;
    use super::play;

    #[test]
    fn random_steps_leave_nothing_behind() {
        let mut random = Prng::new(11);
        for _ in 0..2_000 {
            let steps = random.next() % 400;
            let bytes: Vec<u8> = (0..steps).map(|_| random.next() as u8).collect();
            play(&bytes);
        }
    }
}
