//! What a connection begins with, and what can be changed while it lasts.

use std::time::Duration;

use crate::congestion::Algorithm;
use crate::options::Cookie;

/// The size of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSize {
    /// Bytes that it holds at first.
    pub initial: usize,
    /// Bytes that it grows to if the path needs it; not above [`BufferSize::initial`] for one that stays.
    pub most: usize,
}

/// Explicit congestion notification (RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Never.
    Off,
    /// If the peer asks for it, as `tcp_ecn` of 2 (ip-sysctl).
    #[default]
    Accept,
    /// Ask for it, and accept it.
    Ask,
}

/// Data in the SYN (RFC 7413).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FastOpen {
    /// None, and no cookie is asked for.
    #[default]
    Off,
    /// A client: the cookie that the peer gave it, an empty one to ask for one; and the largest payload that the peer is
    /// known to take, which bounds the data.
    Client(Cookie, u16),
    /// A server: the cookie that this client must show, which nobody else can know (section 4.1.2).
    Server(Cookie),
}

/// What a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Bytes of a segment without options: the MTU less the least headers of IP and TCP.
    pub mss: u16,
    /// Most payload bytes that are taken as one segment, to be cut into segments of [`Transmit::segment_size`]
    /// (segmentation offload); below [`Path::mss`] if nobody cuts.
    ///
    /// [`Transmit::segment_size`]: crate::Transmit::segment_size
    pub whole: usize,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The path to the peer.
    pub path: Path,
    /// The largest segment that the peer is told to send (RFC 9293 section 3.7.1).
    pub mss: u16,
    /// The receive buffer, at most 1 GiB.
    pub receive: BufferSize,
    /// The send buffer.
    pub send: BufferSize,
    /// Whether window scaling (RFC 7323 section 2), timestamps (section 3) and selective acknowledgements (RFC 2018) are
    /// offered and taken up.
    pub window_scaling: bool,
    /// See [`Config::window_scaling`].
    pub timestamps: bool,
    /// See [`Config::window_scaling`].
    pub sack: bool,
    /// Explicit congestion notification.
    pub ecn: Ecn,
    /// Data in the SYN.
    pub fast_open: FastOpen,
    /// Congestion control.
    pub algorithm: Algorithm,
    /// What is added to the connection's clock, so that peers cannot compare clocks: a keyed hash of the addresses
    /// (RFC 7323 section 5.4).
    pub timestamp_offset: u32,
    /// What can be changed later.
    pub settings: Settings,
}

impl Default for Config {
    /// As Linux has it, on Ethernet over IPv4.
    fn default() -> Self {
        Config {
            path: Path { mss: 1460, whole: 0 },
            mss: 1460,
            receive: BufferSize { initial: 131_072, most: 6 << 20 },
            send: BufferSize { initial: 65_536, most: 4 << 20 },
            window_scaling: true,
            timestamps: true,
            sack: true,
            ecn: Ecn::Accept,
            fast_open: FastOpen::Off,
            algorithm: Algorithm::Cubic,
            timestamp_offset: 0,
            settings: Settings::default(),
        }
    }
}

/// When a silent peer is asked whether it is there (RFC 9293 section 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first question.
    pub idle: Duration,
    /// Time between questions.
    pub interval: Duration,
    /// Questions without an answer that end the connection.
    pub count: u32,
}

/// What can be changed while a connection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Small segments do not wait for acknowledgements (`TCP_NODELAY`, tcp(7)): Nagle's algorithm is off.
    pub no_delay: bool,
    /// Small segments wait for more data, for 200 ms at most (`TCP_CORK`, tcp(7)).
    pub cork: bool,
    /// Acknowledgements do not wait (`TCP_QUICKACK`, tcp(7)).
    pub quick_ack: bool,
    /// Asking a silent peer; `None` for never.
    pub keep_alive: Option<KeepAlive>,
    /// How long data may stay unacknowledged (RFC 5482); `None` for 924 seconds (R2 of RFC 9293 section 3.8.3).
    pub user_timeout: Option<Duration>,
    /// How often a SYN is sent again (`TCP_SYNCNT`, tcp(7)).
    pub syn_retries: u32,
    /// Whether large segments that time out twice make way for smaller ones (`tcp_mtu_probing` of 1, ip-sysctl): for paths
    /// whose routers do not say that packets are too large.
    pub find_black_holes: bool,
    /// How long FIN-WAIT-2 lasts once nobody reads any more (`TCP_LINGER2`, tcp(7)).
    pub fin_timeout: Duration,
    /// The most bytes of a window that the peer is told (`TCP_WINDOW_CLAMP`, tcp(7)); `None` for what the buffer has room for.
    pub window_clamp: Option<u32>,
}

impl Settings {
    /// The largest window that may be told.
    pub(crate) fn largest_window(&self) -> u64 {
        self.window_clamp.map_or(u64::MAX, u64::from)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            no_delay: false,
            cork: false,
            quick_ack: false,
            keep_alive: None,
            user_timeout: None,
            syn_retries: 6,
            find_black_holes: false,
            fin_timeout: Duration::from_secs(60),
            window_clamp: None,
        }
    }
}
