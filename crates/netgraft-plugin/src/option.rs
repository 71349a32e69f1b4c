//! Socket options, typed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident($ty:ty);)*) => {
        /// A socket option with its value.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum SocketOption { $($(#[$doc])* $name($ty),)* }

        /// The name of a socket option.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum OptionName { $($(#[$doc])* $name,)* }

        impl SocketOption {
            /// Which option this is a value of.
            #[must_use]
            pub const fn name(&self) -> OptionName {
                match self { $(SocketOption::$name(..) => OptionName::$name,)* }
            }
        }

        impl OptionName {
            /// Every option, for tests and for tools that list them.
            pub const ALL: &'static [OptionName] = &[$(OptionName::$name),*];
        }
    };
}

options! {
    /// `SO_REUSEADDR` (socket(7)).
    ReuseAddress(bool);
    /// `SO_REUSEPORT` (socket(7)).
    ReusePort(bool);
    /// `SO_KEEPALIVE` (socket(7)).
    KeepAlive(bool);
    /// `SO_LINGER` (socket(7)): how long close waits; `None` is off, zero resets the connection.
    Linger(Option<Duration>);
    /// `SO_SNDBUF` in bytes, as set; Linux doubles it and so does the sentry's answer (socket(7)).
    SendBuffer(u32);
    /// `SO_RCVBUF` in bytes, as set (socket(7)).
    ReceiveBuffer(u32);
    /// `SO_BROADCAST` (socket(7)).
    Broadcast(bool);
    /// `SO_OOBINLINE` (socket(7)).
    OutOfBandInline(bool);
    /// `SO_DONTROUTE` (socket(7)).
    DontRoute(bool);
    /// `SO_PRIORITY` (socket(7)).
    Priority(u32);
    /// `SO_BINDTODEVICE` (socket(7)): an interface's name; empty for none.
    BindToDevice(String);
    /// `IP_TTL` (ip(7)).
    Ttl(u8);
    /// `IP_TOS` (ip(7)).
    TypeOfService(u8);
    /// `IP_MULTICAST_TTL` (ip(7)).
    MulticastTtl(u8);
    /// `IP_MULTICAST_LOOP` (ip(7)).
    MulticastLoop(bool);
    /// `IP_MULTICAST_IF` (ip(7)): the address of the interface.
    MulticastInterface(Ipv4Addr);
    /// `IP_ADD_MEMBERSHIP` (ip(7)): group and the address of the interface.
    JoinGroup((Ipv4Addr, Ipv4Addr));
    /// `IP_DROP_MEMBERSHIP` (ip(7)).
    LeaveGroup((Ipv4Addr, Ipv4Addr));
    /// `IP_MTU` (ip(7)): the path's MTU in bytes, of a connected socket; read only.
    PathMtu(u32);
    /// `IP_MTU_DISCOVER` and `IPV6_MTU_DISCOVER` (ip(7)): the numbers of `IP_PMTUDISC_*`.
    MtuDiscover(u8);
    /// `IP_RECVERR` and `IPV6_RECVERR` (ip(7)).
    ReceiveErrors(bool);
    /// `IPV6_V6ONLY` (ipv6(7)).
    V6Only(bool);
    /// `IPV6_UNICAST_HOPS` (ipv6(7)).
    UnicastHops(u8);
    /// `IPV6_TCLASS` (ipv6(7), RFC 3542).
    TrafficClass(u8);
    /// `IPV6_MULTICAST_HOPS` (ipv6(7)).
    MulticastHops(u8);
    /// `IPV6_MULTICAST_LOOP` (ipv6(7)).
    MulticastLoop6(bool);
    /// `IPV6_MULTICAST_IF` (ipv6(7)): interface index.
    MulticastInterface6(u32);
    /// `IPV6_ADD_MEMBERSHIP` (ipv6(7)): group and interface index.
    JoinGroup6((Ipv6Addr, u32));
    /// `IPV6_DROP_MEMBERSHIP` (ipv6(7)).
    LeaveGroup6((Ipv6Addr, u32));
    /// `TCP_NODELAY` (tcp(7)).
    NoDelay(bool);
    /// `TCP_CORK` (tcp(7)).
    Cork(bool);
    /// `TCP_QUICKACK` (tcp(7)).
    QuickAck(bool);
    /// `TCP_KEEPIDLE` (tcp(7)).
    KeepIdle(Duration);
    /// `TCP_KEEPINTVL` (tcp(7)).
    KeepInterval(Duration);
    /// `TCP_KEEPCNT` (tcp(7)).
    KeepCount(u32);
    /// `TCP_USER_TIMEOUT` (tcp(7)); zero is the stack's own.
    UserTimeout(Duration);
    /// `TCP_DEFER_ACCEPT` (tcp(7)); zero is off.
    DeferAccept(Duration);
    /// `TCP_SYNCNT` (tcp(7)).
    SynCount(u32);
    /// `TCP_LINGER2` (tcp(7)); zero is not to wait at all.
    FinTimeout(Duration);
    /// `TCP_WINDOW_CLAMP` in bytes (tcp(7)); zero is none.
    WindowClamp(u32);
    /// `TCP_NOTSENT_LOWAT` in bytes (tcp(7)).
    NotSentLowWater(u32);
    /// `TCP_MAXSEG` in bytes (tcp(7)).
    MaxSegment(u32);
    /// `TCP_CONGESTION` (tcp(7)): the algorithm's name.
    Congestion(String);
    /// `IP_HDRINCL` and `IPV6_HDRINCL` (raw(7)), of raw sockets: what is sent begins with the IP header. On from the
    /// start if the protocol is `IPPROTO_RAW` (255).
    HeaderIncluded(bool);
    /// `TCP_FASTOPEN` (tcp(7), RFC 7413): connections that may take data before their handshake is complete; 0 is off.
    FastOpen(u32);
    /// `TCP_FASTOPEN_CONNECT` (tcp(7)): connect(2) succeeds at once if the peer is known, and the first data leaves with the
    /// SYN.
    FastOpenConnect(bool);
}

/// The state of a TCP connection (RFC 9293 section 3.3.2), numbered as in `TCP_INFO` (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "the RFC's names")]
#[repr(u8)]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    #[default]
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

/// What a stack knows of a TCP connection (`TCP_INFO`, tcp(7)). Zero where it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// The connection's state.
    pub state: TcpState,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Variation of the round-trip time.
    pub rtt_variance: Duration,
    /// Retransmission time-out.
    pub rto: Duration,
    /// Largest segment sent, in bytes.
    pub send_mss: u32,
    /// Largest segment received, in bytes.
    pub receive_mss: u32,
    /// Congestion window, in bytes.
    pub congestion_window: u32,
    /// Slow start threshold, in bytes; `u32::MAX` while there is none.
    pub slow_start_threshold: u32,
    /// Bytes sent and not yet acknowledged. Of a listener: connections that wait to be accepted.
    pub unacknowledged: u32,
    /// Those of them that the peer has out of order (RFC 2018), in bytes. Of a listener: its backlog.
    pub selectively_acknowledged: u32,
    /// Those of them that are believed lost, in bytes.
    pub lost: u32,
    /// Bytes that the program has written and that were not sent.
    pub not_sent: u32,
    /// Shortest round-trip time of the last minutes.
    pub least_rtt: Duration,
    /// Bytes per second that arrive at the peer, by the last measure.
    pub delivery_rate: u64,
    /// Bytes per second at which data leaves, if it is paced.
    pub pacing_rate: u64,
    /// Whether losses are being repaired, and how (`tcpi_ca_state`).
    pub congestion_state: CongestionState,
    /// What both ends have agreed on.
    pub agreed: Agreed,
    /// Retransmission time-outs in a row without an answer.
    pub backoff: u8,
    /// Segments sent again since the connection began.
    pub retransmits: u32,
    /// Window that the peer offers, in bytes.
    pub send_window: u32,
    /// Window that the stack offers, in bytes.
    pub receive_window: u32,
    /// Payload bytes sent since the connection began.
    pub bytes_sent: u64,
    /// Payload bytes received since the connection began.
    pub bytes_received: u64,
    /// Payload bytes sent again since the connection began.
    pub bytes_retransmitted: u64,
}

/// Whether losses are being repaired, and how: the kernel's numbers (`enum tcp_ca_state`, linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CongestionState {
    /// Nothing is missing, as far as is known.
    #[default]
    Open = 0,
    /// Segments have arrived out of order.
    Disorder = 1,
    /// A router said that the path is full.
    Reduced = 2,
    /// Losses are being repaired.
    Recovery = 3,
    /// The retransmission time-out has passed.
    Loss = 4,
}

/// What the two ends of a TCP connection have agreed on (`tcpi_options`, `tcpi_snd_wscale`, `tcpi_rcv_wscale`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Agreed {
    /// Timestamps (RFC 7323 section 3).
    pub timestamps: bool,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Shifts of the windows that the peer and this end offer, if windows are scaled (RFC 7323 section 2).
    pub window_scales: Option<(u8, u8)>,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// Data came or went with the SYN (RFC 7413).
    pub fast_open: bool,
}
