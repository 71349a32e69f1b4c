//! The Rust side of `include/netgraft.h`: the same structures, field by field.
//!
//! The names are those of the header without `netgraft_`; what each field means is said there. A test compiles
//! assertions about every size, offset, type and number against the header, so neither side changes alone.

use std::ffi::{c_char, c_void};

use crate::raw;

/// The version that this crate speaks: `NETGRAFT_VERSION`.
pub const VERSION: u32 = 1 << 16 | 3;
/// `NETGRAFT_NO_LINGER`, `NETGRAFT_NEVER` and `NETGRAFT_UNKNOWN_ROOM`.
pub const NONE: u64 = u64::MAX;

/// Declares structures of the header, each with its name there, and in tests what is known of its layout.
macro_rules! c_structs {
    ($layouts:ident: $($(#[$meta:meta])* $c:literal $name:ident { $($field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            #[expect(missing_docs, reason = "said in the header")]
            pub struct $name { $(pub $field: $ty,)* }

            #[cfg(test)]
            impl crate::layout::CType for $name {
                fn c_name() -> String { $c.to_owned() }
            }
        )*

        #[cfg(test)]
        fn $layouts() -> Vec<crate::layout::Layout> {
            vec![$(crate::layout::Layout {
                name: $c,
                size: size_of::<$name>(),
                fields: vec![$(crate::layout::Field {
                    name: stringify!($field).trim_start_matches("r#"),
                    offset: std::mem::offset_of!($name, $field),
                    ty: <$ty as crate::layout::CType>::c_name(),
                },)*],
            },)*]
        }
    };
}

/// The value of an option; which member holds is said by the `type` of [`Opt`].
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "said in the header")]
pub union Value {
    pub number: u64,
    pub nanoseconds: u64,
    pub text: [u8; 32],
    pub ipv4: [u8; 4],
    pub group4: Group4,
    pub group6: Group6,
}

#[cfg(test)]
impl crate::layout::CType for Value {
    fn c_name() -> String {
        "union netgraft_value".to_owned()
    }
}

/// A function of the table that may be absent.
type Fun<F> = Option<F>;

c_structs! {
    struct_layouts:
    /// An IP address.
    #[derive(Default, Debug, PartialEq, Eq)]
    "struct netgraft_ip" Ip { family: u16, reserved: u16, bytes: [u8; 16], }

    /// An IP address and a port.
    #[derive(Default, Debug, PartialEq, Eq)]
    "struct netgraft_address" Address {
        ip: Ip, port: u16, reserved: u16, flow_info: u32, scope_id: u32,
    }

    /// An address with its prefix length.
    #[derive(Default, Debug, PartialEq, Eq)]
    "struct netgraft_cidr" Cidr { ip: Ip, prefix: u8, reserved: [u8; 3], }

    /// What kind of socket.
    #[derive(Default, Debug, PartialEq, Eq)]
    "struct netgraft_socket_spec" SocketSpec {
        family: u16, kind: u8, protocol: u8, number: u8, reserved: [u8; 3],
    }

    /// An IPv4 group and interface.
    "struct netgraft_group4" Group4 { group: [u8; 4], interface_address: [u8; 4], }

    /// An IPv6 group and interface.
    "struct netgraft_group6" Group6 { group: [u8; 16], interface_index: u32, }

    /// An option with its value.
    "struct netgraft_option" Opt { name: u32, r#type: u32, value: Value, }

    /// What a receive gave.
    #[derive(Default, Debug)]
    "struct netgraft_received" Received {
        len: u64, full_len: u64, from: Address, to: Ip, interface_index: u32, hop_limit: u8,
        traffic_class: u8, reserved: [u8; 2],
    }

    /// A socket's readiness.
    #[derive(Default, Debug)]
    "struct netgraft_event" Event { handle: u64, events: u32, reserved: u32, }

    /// A descriptor that wakes the stack.
    #[derive(Default, Debug)]
    "struct netgraft_wake_fd" WakeFd { fd: i32, events: u32, }

    /// What a stack knows of a TCP connection.
    #[derive(Default, Debug)]
    "struct netgraft_tcp_info" TcpInfo {
        state: u32, reserved: u32, rtt: u64, rtt_variance: u64, rto: u64, send_mss: u32, receive_mss: u32,
        congestion_window: u32, unacknowledged: u32, retransmits: u32, send_window: u32,
        receive_window: u32, reserved2: u32, bytes_sent: u64, bytes_received: u64,
    }

    /// More of what a stack knows of a TCP connection.
    #[derive(Default, Debug)]
    "struct netgraft_tcp_details" TcpDetails {
        slow_start_threshold: u32, selectively_acknowledged: u32, lost: u32, not_sent: u32, least_rtt: u64,
        delivery_rate: u64, pacing_rate: u64, bytes_retransmitted: u64, congestion_state: u32, agreed: u32,
        backoff: u32, send_window_scale: u8, receive_window_scale: u8, reserved: [u8; 2],
    }

    /// A counter of TCP.
    #[derive(Default, Debug)]
    "struct netgraft_tcp_counter" TcpCounter { count: u32, reserved: u32, value: u64, }

    /// A network interface.
    #[derive(Default, Debug)]
    "struct netgraft_interface" Interface {
        index: u32, mtu: u32, name: [u8; 16], up: u8, loopback: u8, has_hardware_address: u8, reserved: u8,
        hardware_address: [u8; 6], reserved2: [u8; 2],
    }

    /// A route.
    #[derive(Default, Debug)]
    "struct netgraft_route" Route { destination: Cidr, gateway: Ip, interface_index: u32, }

    /// Sizes of TCP buffers.
    #[derive(Default, Debug)]
    "struct netgraft_buffer_sizes" BufferSizes { min: u32, default_size: u32, max: u32, }

    /// Counters.
    #[derive(Default, Debug)]
    "struct netgraft_statistics" Statistics {
        packets_received: u64, bytes_received: u64, packets_sent: u64, bytes_sent: u64,
        packets_dropped: u64, tcp_active_opens: u64, tcp_passive_opens: u64, tcp_established: u64,
        tcp_attempt_fails: u64, tcp_resets_received: u64, tcp_resets_sent: u64, tcp_listen_overflows: u64,
        udp_received: u64, udp_sent: u64, udp_no_port: u64, udp_receive_overflows: u64, sockets: u64,
    }

    /// A condition of a system call rule.
    #[derive(Default, Debug)]
    "struct netgraft_condition" Condition { index: u64, mask: u64, value: u64, }

    /// A system call that the stack needs.
    #[derive(Default, Debug)]
    "struct netgraft_rule" Rule { number: i64, condition_count: u64, conditions: [Condition; 6], }

    /// What the operator chose.
    "struct netgraft_config" Config {
        size: u32, link_kind: u32, link_name: *const c_char, addresses: *const Cidr, address_count: usize,
        gateways: *const Ip, gateway_count: usize, argument: *const c_char,
    }

    /// What an instance may call.
    "struct netgraft_host" Host {
        size: u32, version: u32, context: *mut c_void,
        log: Fun<unsafe extern "C" fn(*mut c_void, u32, *const c_char, usize)>,
    }

    /// A piece of memory that a stack lends.
    "struct netgraft_piece" Piece { bytes: *mut c_void, length: usize, }

    /// A datagram of a batch.
    "struct netgraft_datagram" Datagram { data: *const c_void, length: usize, to: Address, reserved: u32, }

    /// Where `pre_init` writes.
    "struct netgraft_handover" Handover {
        text: *mut c_char, text_capacity: usize, text_length: usize, fds: *mut i32, fd_capacity: usize,
        fd_count: usize,
    }
}

/// A function of the caller that gets pieces of memory which a stack lends, and answers how many bytes it wrote or
/// took: `netgraft_lend`.
pub type Lend = Option<unsafe extern "C" fn(*mut c_void, *const Piece, usize) -> u64>;

/// A function of the caller that gets a datagram: `netgraft_deliver`.
pub type Deliver = Option<unsafe extern "C" fn(*mut c_void, *const Received, *const c_void)>;

macro_rules! table {
    ($(
        $(#[$need:ident])? $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty
            $(= $broken:expr, |$stack:ident| $body:expr)?;
    )*) => {
        c_structs! {
            table_layout:
            /// The table of a stack.
            "struct netgraft_stack_v1" Table {
                size: u32, version: u32, flags: u64,
                name: *const c_char, version_text: *const c_char, needs: *const c_char,
                sockets: *const SocketSpec, socket_count: usize,
                options: *const u32, option_count: usize,
                rules: *const Rule, rule_count: usize,
                create: Fun<
                    unsafe extern "C" fn(*const Config, *const Host, *mut *mut c_void, *mut c_char, usize) -> i32
                >,
                $($name: Fun<unsafe extern "C" fn(*mut c_void $(, $ty)*) -> $answer>,)*
            }
        }
    };
}
crate::interface::interface!(table);

#[cfg(test)]
pub(crate) fn layouts() -> Vec<crate::layout::Layout> {
    struct_layouts().into_iter().chain(table_layout()).collect()
}

/// The entry point of an object: `netgraft_stack`.
pub type Entry = unsafe extern "C" fn(u32) -> *const Table;
