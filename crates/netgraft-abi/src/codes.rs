//! The numbers of the header, and what they mean in the contract. The tables here are the only place for them.

use netgraft_plugin::inet::Recovery;
use netgraft_plugin::option::CongestionState;
use netgraft_plugin::{Error, OptionName, Shutdown, TcpState};
#[cfg(test)]
use netgraft_plugin::{Events, RecvFlags, SendFlags};

/// Makes a two-way table between an enum of the contract and numbers of the header.
macro_rules! table {
    ($names:ident $to:ident $from:ident: $rust:ty, $int:ty {
        $($variant:path = $number:literal $name:literal,)*
    }) => {
        #[cfg(test)]
        const $names: &[(&str, i64)] = &[$(($name, $number as i64),)*];

        /// The number in the header; `None` for what is newer than it.
        pub(crate) fn $to(value: $rust) -> Option<$int> {
            const TABLE: &[($rust, $int)] = &[$(($variant, $number),)*];
            TABLE.iter().find(|(v, _)| *v == value).map(|(_, number)| *number)
        }

        /// What a number means; `None` for nonsense.
        pub(crate) const fn $from(number: $int) -> Option<$rust> {
            match number { $($number => Some($variant),)* _ => None }
        }
    };
}

table! { ERRORS error_number error_of: Error, i32 {
    Error::Again = -1 "NETGRAFT_E_AGAIN",
    Error::InProgress = -2 "NETGRAFT_E_IN_PROGRESS",
    Error::Already = -3 "NETGRAFT_E_ALREADY",
    Error::IsConnected = -4 "NETGRAFT_E_IS_CONNECTED",
    Error::NotConnected = -5 "NETGRAFT_E_NOT_CONNECTED",
    Error::DestinationRequired = -6 "NETGRAFT_E_DESTINATION_REQUIRED",
    Error::AddressInUse = -7 "NETGRAFT_E_ADDRESS_IN_USE",
    Error::AddressNotAvailable = -8 "NETGRAFT_E_ADDRESS_NOT_AVAILABLE",
    Error::FamilyNotSupported = -9 "NETGRAFT_E_FAMILY_NOT_SUPPORTED",
    Error::ConnectionRefused = -10 "NETGRAFT_E_CONNECTION_REFUSED",
    Error::ConnectionReset = -11 "NETGRAFT_E_CONNECTION_RESET",
    Error::ConnectionAborted = -12 "NETGRAFT_E_CONNECTION_ABORTED",
    Error::TimedOut = -13 "NETGRAFT_E_TIMED_OUT",
    Error::NetworkUnreachable = -14 "NETGRAFT_E_NETWORK_UNREACHABLE",
    Error::HostUnreachable = -15 "NETGRAFT_E_HOST_UNREACHABLE",
    Error::NetworkDown = -16 "NETGRAFT_E_NETWORK_DOWN",
    Error::BrokenPipe = -17 "NETGRAFT_E_BROKEN_PIPE",
    Error::MessageTooLong = -18 "NETGRAFT_E_MESSAGE_TOO_LONG",
    Error::BadHandle = -19 "NETGRAFT_E_BAD_HANDLE",
    Error::Invalid = -20 "NETGRAFT_E_INVALID",
    Error::NotSupported = -21 "NETGRAFT_E_NOT_SUPPORTED",
    Error::UnknownOption = -22 "NETGRAFT_E_UNKNOWN_OPTION",
    Error::ProtocolNotSupported = -23 "NETGRAFT_E_PROTOCOL_NOT_SUPPORTED",
    Error::KindNotSupported = -24 "NETGRAFT_E_KIND_NOT_SUPPORTED",
    Error::NotPermitted = -25 "NETGRAFT_E_NOT_PERMITTED",
    Error::AccessDenied = -26 "NETGRAFT_E_ACCESS_DENIED",
    Error::NoBuffers = -27 "NETGRAFT_E_NO_BUFFERS",
    Error::NoMemory = -28 "NETGRAFT_E_NO_MEMORY",
    Error::TooManySockets = -29 "NETGRAFT_E_TOO_MANY_SOCKETS",
    Error::NotFound = -30 "NETGRAFT_E_NOT_FOUND",
    Error::Exists = -31 "NETGRAFT_E_EXISTS",
    Error::OutOfRange = -32 "NETGRAFT_E_OUT_OF_RANGE",
    Error::Io = -33 "NETGRAFT_E_IO",
} }

table! { OPTIONS option_number option_of: OptionName, u32 {
    OptionName::ReuseAddress = 1 "NETGRAFT_O_REUSE_ADDRESS",
    OptionName::ReusePort = 2 "NETGRAFT_O_REUSE_PORT",
    OptionName::KeepAlive = 3 "NETGRAFT_O_KEEP_ALIVE",
    OptionName::Linger = 4 "NETGRAFT_O_LINGER",
    OptionName::SendBuffer = 5 "NETGRAFT_O_SEND_BUFFER",
    OptionName::ReceiveBuffer = 6 "NETGRAFT_O_RECEIVE_BUFFER",
    OptionName::Broadcast = 7 "NETGRAFT_O_BROADCAST",
    OptionName::OutOfBandInline = 8 "NETGRAFT_O_OUT_OF_BAND_INLINE",
    OptionName::DontRoute = 9 "NETGRAFT_O_DONT_ROUTE",
    OptionName::Priority = 10 "NETGRAFT_O_PRIORITY",
    OptionName::BindToDevice = 11 "NETGRAFT_O_BIND_TO_DEVICE",
    OptionName::Ttl = 12 "NETGRAFT_O_TTL",
    OptionName::TypeOfService = 13 "NETGRAFT_O_TYPE_OF_SERVICE",
    OptionName::MulticastTtl = 14 "NETGRAFT_O_MULTICAST_TTL",
    OptionName::MulticastLoop = 15 "NETGRAFT_O_MULTICAST_LOOP",
    OptionName::MulticastInterface = 16 "NETGRAFT_O_MULTICAST_INTERFACE",
    OptionName::JoinGroup = 17 "NETGRAFT_O_JOIN_GROUP",
    OptionName::LeaveGroup = 18 "NETGRAFT_O_LEAVE_GROUP",
    OptionName::PathMtu = 19 "NETGRAFT_O_PATH_MTU",
    OptionName::MtuDiscover = 20 "NETGRAFT_O_MTU_DISCOVER",
    OptionName::ReceiveErrors = 21 "NETGRAFT_O_RECEIVE_ERRORS",
    OptionName::V6Only = 22 "NETGRAFT_O_V6_ONLY",
    OptionName::UnicastHops = 23 "NETGRAFT_O_UNICAST_HOPS",
    OptionName::TrafficClass = 24 "NETGRAFT_O_TRAFFIC_CLASS",
    OptionName::MulticastHops = 25 "NETGRAFT_O_MULTICAST_HOPS",
    OptionName::MulticastLoop6 = 26 "NETGRAFT_O_MULTICAST_LOOP6",
    OptionName::MulticastInterface6 = 27 "NETGRAFT_O_MULTICAST_INTERFACE6",
    OptionName::JoinGroup6 = 28 "NETGRAFT_O_JOIN_GROUP6",
    OptionName::LeaveGroup6 = 29 "NETGRAFT_O_LEAVE_GROUP6",
    OptionName::NoDelay = 30 "NETGRAFT_O_NO_DELAY",
    OptionName::Cork = 31 "NETGRAFT_O_CORK",
    OptionName::QuickAck = 32 "NETGRAFT_O_QUICK_ACK",
    OptionName::KeepIdle = 33 "NETGRAFT_O_KEEP_IDLE",
    OptionName::KeepInterval = 34 "NETGRAFT_O_KEEP_INTERVAL",
    OptionName::KeepCount = 35 "NETGRAFT_O_KEEP_COUNT",
    OptionName::UserTimeout = 36 "NETGRAFT_O_USER_TIMEOUT",
    OptionName::DeferAccept = 37 "NETGRAFT_O_DEFER_ACCEPT",
    OptionName::SynCount = 38 "NETGRAFT_O_SYN_COUNT",
    OptionName::FinTimeout = 39 "NETGRAFT_O_FIN_TIMEOUT",
    OptionName::WindowClamp = 40 "NETGRAFT_O_WINDOW_CLAMP",
    OptionName::NotSentLowWater = 41 "NETGRAFT_O_NOT_SENT_LOW_WATER",
    OptionName::MaxSegment = 42 "NETGRAFT_O_MAX_SEGMENT",
    OptionName::Congestion = 43 "NETGRAFT_O_CONGESTION",
    OptionName::HeaderIncluded = 44 "NETGRAFT_O_HEADER_INCLUDED",
    OptionName::FastOpen = 45 "NETGRAFT_O_FAST_OPEN",
    OptionName::FastOpenConnect = 46 "NETGRAFT_O_FAST_OPEN_CONNECT",
} }

table! { SHUTDOWNS shutdown_number shutdown_of: Shutdown, u32 {
    Shutdown::Read = 0 "NETGRAFT_SHUTDOWN_READ",
    Shutdown::Write = 1 "NETGRAFT_SHUTDOWN_WRITE",
    Shutdown::Both = 2 "NETGRAFT_SHUTDOWN_BOTH",
} }

table! { RECOVERIES recovery_number recovery_of: Recovery, u32 {
    Recovery::Timeout = 0 "NETGRAFT_RECOVERY_TIMEOUT",
    Recovery::NewReno = 1 "NETGRAFT_RECOVERY_NEW_RENO",
    Recovery::Sack = 2 "NETGRAFT_RECOVERY_SACK",
    Recovery::Rack = 3 "NETGRAFT_RECOVERY_RACK",
} }

table! { TCP_STATES tcp_state_number tcp_state_of: TcpState, u32 {
    TcpState::Established = 1 "NETGRAFT_TCP_ESTABLISHED",
    TcpState::SynSent = 2 "NETGRAFT_TCP_SYN_SENT",
    TcpState::SynReceived = 3 "NETGRAFT_TCP_SYN_RECEIVED",
    TcpState::FinWait1 = 4 "NETGRAFT_TCP_FIN_WAIT_1",
    TcpState::FinWait2 = 5 "NETGRAFT_TCP_FIN_WAIT_2",
    TcpState::TimeWait = 6 "NETGRAFT_TCP_TIME_WAIT",
    TcpState::Closed = 7 "NETGRAFT_TCP_CLOSED",
    TcpState::CloseWait = 8 "NETGRAFT_TCP_CLOSE_WAIT",
    TcpState::LastAck = 9 "NETGRAFT_TCP_LAST_ACK",
    TcpState::Listen = 10 "NETGRAFT_TCP_LISTEN",
    TcpState::Closing = 11 "NETGRAFT_TCP_CLOSING",
} }

table! { CONGESTION_STATES congestion_number congestion_of: CongestionState, u32 {
    CongestionState::Open = 0 "NETGRAFT_CONGESTION_OPEN",
    CongestionState::Disorder = 1 "NETGRAFT_CONGESTION_DISORDER",
    CongestionState::Reduced = 2 "NETGRAFT_CONGESTION_REDUCED",
    CongestionState::Recovery = 3 "NETGRAFT_CONGESTION_RECOVERY",
    CongestionState::Loss = 4 "NETGRAFT_CONGESTION_LOSS",
} }

/// Numbers without an enum of the contract that has the same shape.
macro_rules! numbers {
    ($names:ident: $int:ty { $($(#[$doc:meta])* $name:ident = $value:expr, $c:literal;)* }) => {
        $($(#[$doc])* pub(crate) const $name: $int = $value;)*
        #[cfg(test)]
        const $names: &[(&str, i64)] = &[$(($c, $value as i64),)*];
    };
}

numbers! { FAMILIES: u16 {
    FAMILY_NONE = 0, "NETGRAFT_FAMILY_NONE";
    FAMILY_V4 = 4, "NETGRAFT_FAMILY_V4";
    FAMILY_V6 = 6, "NETGRAFT_FAMILY_V6";
} }

numbers! { KINDS: u8 {
    KIND_STREAM = 1, "NETGRAFT_KIND_STREAM";
    KIND_DATAGRAM = 2, "NETGRAFT_KIND_DATAGRAM";
    KIND_RAW = 3, "NETGRAFT_KIND_RAW";
    PROTOCOL_TCP = 1, "NETGRAFT_PROTOCOL_TCP";
    PROTOCOL_UDP = 2, "NETGRAFT_PROTOCOL_UDP";
    PROTOCOL_ICMP = 3, "NETGRAFT_PROTOCOL_ICMP";
    PROTOCOL_ICMPV6 = 4, "NETGRAFT_PROTOCOL_ICMPV6";
    PROTOCOL_RAW = 5, "NETGRAFT_PROTOCOL_RAW";
} }

numbers! { VALUES: u32 {
    VALUE_BOOL = 1, "NETGRAFT_VALUE_BOOL";
    VALUE_NUMBER = 2, "NETGRAFT_VALUE_NUMBER";
    VALUE_DURATION = 3, "NETGRAFT_VALUE_DURATION";
    VALUE_TEXT = 4, "NETGRAFT_VALUE_TEXT";
    VALUE_IPV4 = 5, "NETGRAFT_VALUE_IPV4";
    VALUE_GROUP4 = 6, "NETGRAFT_VALUE_GROUP4";
    VALUE_GROUP6 = 7, "NETGRAFT_VALUE_GROUP6";
    LOG_ERROR = 1, "NETGRAFT_LOG_ERROR";
    LOG_WARN = 2, "NETGRAFT_LOG_WARN";
    LOG_INFO = 3, "NETGRAFT_LOG_INFO";
    LOG_DEBUG = 4, "NETGRAFT_LOG_DEBUG";
    LOG_TRACE = 5, "NETGRAFT_LOG_TRACE";
    LINK_NONE = 0, "NETGRAFT_LINK_NONE";
    LINK_TAP = 1, "NETGRAFT_LINK_TAP";
    LINK_PACKET = 2, "NETGRAFT_LINK_PACKET";
} }

numbers! { AGREED: u32 {
    AGREED_TIMESTAMPS = 1, "NETGRAFT_AGREED_TIMESTAMPS";
    AGREED_SACK = 2, "NETGRAFT_AGREED_SACK";
    AGREED_WINDOW_SCALES = 4, "NETGRAFT_AGREED_WINDOW_SCALES";
    AGREED_ECN = 8, "NETGRAFT_AGREED_ECN";
    AGREED_FAST_OPEN = 16, "NETGRAFT_AGREED_FAST_OPEN";
} }

numbers! { TCP_COUNTS: u32 {
    TCP_RETRANSMITTED = 1, "NETGRAFT_TCP_COUNT_RETRANSMITTED";
    TCP_TIMEOUTS = 2, "NETGRAFT_TCP_COUNT_TIMEOUTS";
    TCP_SPURIOUS_TIMEOUTS = 3, "NETGRAFT_TCP_COUNT_SPURIOUS_TIMEOUTS";
    TCP_LOSS_PROBES = 4, "NETGRAFT_TCP_COUNT_LOSS_PROBES";
    TCP_SACK_RECOVERIES = 5, "NETGRAFT_TCP_COUNT_SACK_RECOVERIES";
    TCP_RENO_RECOVERIES = 6, "NETGRAFT_TCP_COUNT_RENO_RECOVERIES";
    TCP_UNDONE = 7, "NETGRAFT_TCP_COUNT_UNDONE";
    TCP_DUPLICATES_REPORTED = 8, "NETGRAFT_TCP_COUNT_DUPLICATES_REPORTED";
    TCP_OUT_OF_ORDER = 9, "NETGRAFT_TCP_COUNT_OUT_OF_ORDER";
    TCP_CHALLENGES = 10, "NETGRAFT_TCP_COUNT_CHALLENGES";
    TCP_COOKIES_SENT = 11, "NETGRAFT_TCP_COUNT_COOKIES_SENT";
    TCP_COOKIES_RECEIVED = 12, "NETGRAFT_TCP_COUNT_COOKIES_RECEIVED";
    TCP_TIMED_OUT = 13, "NETGRAFT_TCP_COUNT_TIMED_OUT";
    TCP_FAST_OPEN_ACTIVE = 14, "NETGRAFT_TCP_COUNT_FAST_OPEN_ACTIVE";
    TCP_FAST_OPEN_PASSIVE = 15, "NETGRAFT_TCP_COUNT_FAST_OPEN_PASSIVE";
    TCP_MEMORY_PRESSURES = 16, "NETGRAFT_TCP_COUNT_MEMORY_PRESSURES";
} }

numbers! { FLAGS: u64 {
    /// Sockets are the host's own descriptors.
    STACK_HOST_FDS = 1, "NETGRAFT_STACK_HOST_FDS";
} }

numbers! { FAILURES: i32 {
    /// The stack has failed for good. In the contract it is [`netgraft_plugin::PluginStack::failure`].
    BROKEN = -34, "NETGRAFT_E_BROKEN";
} }

/// The error that a result stands for.
///
/// # Errors
/// The stack's error, or `Err(None)` for a number that is neither success nor an error of the header.
pub(crate) const fn result_of(number: i64) -> Result<u64, Option<Error>> {
    match number {
        0.. => Ok(number.cast_unsigned()),
        -0xffff..=-1 => Err(error_of(number as i32)),
        _ => Err(None),
    }
}

/// The bits of the contract's flags are those of the header.
#[cfg(test)]
const BITS: &[(&str, i64)] = &[
    ("NETGRAFT_OK", 0),
    ("NETGRAFT_SEND_MORE", SendFlags::MORE.bits() as i64),
    ("NETGRAFT_SEND_DONT_ROUTE", SendFlags::DONT_ROUTE.bits() as i64),
    ("NETGRAFT_SEND_OUT_OF_BAND", SendFlags::OUT_OF_BAND.bits() as i64),
    ("NETGRAFT_RECV_PEEK", RecvFlags::PEEK.bits() as i64),
    ("NETGRAFT_READY_IN", Events::IN.bits() as i64),
    ("NETGRAFT_READY_PRI", Events::PRI.bits() as i64),
    ("NETGRAFT_READY_OUT", Events::OUT.bits() as i64),
    ("NETGRAFT_READY_ERR", Events::ERR.bits() as i64),
    ("NETGRAFT_READY_HUP", Events::HUP.bits() as i64),
    ("NETGRAFT_READY_RDHUP", Events::RDHUP.bits() as i64),
];

/// Every enumerator of the header.
#[cfg(test)]
pub(crate) fn numbers() -> Vec<(&'static str, i64)> {
    [
        ERRORS,
        OPTIONS,
        SHUTDOWNS,
        RECOVERIES,
        TCP_STATES,
        CONGESTION_STATES,
        AGREED,
        TCP_COUNTS,
        FAMILIES,
        KINDS,
        VALUES,
        FLAGS,
        FAILURES,
        BITS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_and_option_of_the_contract_has_a_number() {
        for &error in Error::ALL {
            assert_eq!(error_number(error).and_then(error_of), Some(error));
        }
        for &name in OptionName::ALL {
            assert_eq!(option_number(name).and_then(option_of), Some(name));
        }
    }

    #[test]
    fn results_that_are_no_error_of_the_header_are_nonsense() {
        assert_eq!(result_of(7), Ok(7));
        assert_eq!(result_of(-1), Err(Some(Error::Again)));
        for nonsense in [-35, -110, i64::MIN, i64::from(i32::MIN)] {
            assert_eq!(result_of(nonsense), Err(None));
        }
    }
}
