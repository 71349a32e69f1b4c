//! TCP without I/O: segments in, segments out.
//!
//! The crate has no socket, no clock, no random numbers and no unsafe code. A caller gives a [`Connection`] what came
//! ([`Connection::input`]) and what time it is ([`Connection::on_time`]), and takes what is to leave
//! ([`Connection::transmit`], [`Connection::write`]). Memory for data comes from a [`Pool`] of the caller's, and an idle
//! connection holds none. IP, checksums, ports and addresses are the caller's, and so is the table of connections.
//!
//! Each file treats one concern and names the sections of the RFCs to read first; their words stand beside the code.
//!
//! ```
//! use netgraft_tcp::{Config, Connection, Instant, Pool, Segment, State};
//!
//! let (config, mut pool, now) = (Config::default(), Pool::new(1 << 20), Instant::ZERO);
//! let mut client = Connection::connect(&config, 1000, now);
//! let mut bytes = [0; 1500];
//! let syn = client.transmit(now).unwrap();
//! client.write(&syn, (40_000, 80), &mut bytes);
//! let syn = Segment::parse(&bytes[..syn.len()]).unwrap();
//! let mut server = Connection::accept(&config, 5000, &syn, now).unwrap();
//! let answer = server.transmit(now).unwrap();
//! let mut bytes = [0; 1500];
//! server.write(&answer, (80, 40_000), &mut bytes);
//! client.input(&Segment::parse(&bytes[..answer.len()]).unwrap(), now, &mut pool);
//! assert_eq!(client.state(), State::Established);
//! ```
#![forbid(unsafe_code)]

mod bbr;
mod bbr_model;
mod buffer;
mod config;
mod congestion;
mod connection;
mod cubic;
mod fastopen;
mod handshake;
mod hystart;
mod info;
mod input;
mod newreno;
mod options;
mod output;
mod pmtu;
mod prr;
mod rack;
mod rate;
mod reassembly;
mod receiver;
mod recovery;
mod rtt;
mod scoreboard;
mod segment;
mod sender;
mod seq;
mod state;
mod syncookie;
mod time;
mod timers;
mod timewait;
mod tuning;

pub use buffer::Pool;
pub use config::{BufferSize, Config, Ecn, FastOpen, KeepAlive, Path, Settings};
pub use congestion::{Acknowledged, Algorithm, Congestion, Control, Window};
pub use connection::{Arrival, Connection, Reason, State};
pub use info::{Info, Repair};
pub use options::{Cookie, Options, SackBlocks};
pub use output::Transmit;
pub use rate::RateSample;
pub use segment::{Flags, HEADER, Header, Segment};
pub use sender::Counts;
pub use state::ImportError;
pub use syncookie::Cookies;
pub use time::Instant;
pub use timewait::{Meaning, TIME_WAIT, TimeWait};
