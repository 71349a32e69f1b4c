//! Links for every stack that speaks packets, and wrappers around them.
//!
//! - [`device`]: what `--link` names. [`open`] runs in the launcher and gives a description and descriptors; [`rebuild`]
//!   makes the link of them in the sentry. A stack calls them in its `pre_init` and `init` and knows of no kind.
//! - [`lease`]: what a link offers by DHCP and router advertisements.
//! - [`wire`]: two ends in one process, for tests.
//! - [`Faulty`]: delay, loss, reordering and the like on any link; the decisions are [`path`]'s, which does no I/O and
//!   reads no clock.
//! - [`Captured`] shows every frame to a function, [`Counted`] counts them. [`pcap`] records them for tcpdump and Wireshark.
//! - [`Bridge`]: the same for a stack that expects the descriptor of a device, such as one in C.
//!
//! The kernel's interfaces are in `netgraft_linux::link`.
//!
//! ```
//! use netgraft_link::{Faulty, wire};
//! use netgraft_plugin::Instant;
//! use netgraft_plugin::faults::{Faults, LinkFaults};
//! use netgraft_plugin::link::{FrameMeta, Link};
//! use std::time::Duration;
//!
//! let (mut left, right) = wire::pair(1500);
//! let slow = Faults { delay: Duration::from_millis(25), ..Faults::default() };
//! let (mut right, _dial) = Faulty::new(right, LinkFaults { incoming: slow, ..LinkFaults::default() }, 1);
//!
//! left.send(Instant::ZERO, b"frame", FrameMeta::default())?;
//! let mut seen = Vec::new();
//! right.receive(Instant::ZERO, 8, &mut |frame| seen.push(frame.to_vec()))?;
//! assert_eq!(right.next_deadline(), Some(Instant::from_millis(25)));
//! right.receive(Instant::from_millis(25), 8, &mut |frame| seen.push(frame.to_vec()))?;
//! assert_eq!(seen, [b"frame"]);
//! # Ok::<(), netgraft_plugin::Error>(())
//! ```
#![forbid(unsafe_code)]

#[macro_use]
mod within;

pub mod bridge;
mod capture;
mod counters;
mod cut;
pub mod dad;
pub mod device;
mod dhcp6;
mod faulty;
pub mod lease;
mod leased;
mod passt;
pub mod path;
pub mod pcap;
mod quirks;
pub mod random;
mod silent;
mod unique;
pub mod wire;

/// The least MTU of a link that carries IPv6 (RFC 8200, section 5).
pub const MTU_OF_IPV6: usize = 1280;

pub use bridge::Bridge;
pub use capture::{Captured, Viewer, Way};
pub use counters::{Counted, Counters, Traffic};
pub use device::{Rebuilt, needs, open, rebuild, syscalls};
pub use faulty::{Dial, Faulty};
pub use passt::PasstLink;
