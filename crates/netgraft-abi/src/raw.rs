//! The Rust side of `include/netgraft.h`: the same structures, field by field.
//!
//! The names are those of the header without `netgraft_`; what each field means is said there. A test compiles
//! assertions about every size, offset, type and number against the header, so neither side changes alone.

use std::ffi::{c_char, c_void};

/// The version that this crate speaks: `NETGRAFT_VERSION`.
pub const VERSION: u32 = 1 << 16;
/// `NETGRAFT_NO_LINGER`, `NETGRAFT_NEVER` and `NETGRAFT_UNKNOWN_ROOM`.
pub const NONE: u64 = u64::MAX;

/// Declares structures of the header, each with its name there, and in tests what is known of its layout.
macro_rules! c_structs {
    ($($(#[$meta:meta])* $c:literal $name:ident { $($field:ident: $ty:ty,)* })*) => {
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
        pub(crate) fn layouts() -> Vec<crate::layout::Layout> {
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

    /// Where `pre_init` writes.
    "struct netgraft_handover" Handover {
        text: *mut c_char, text_capacity: usize, text_length: usize, fds: *mut i32, fd_capacity: usize,
        fd_count: usize,
    }

    /// The table of a stack.
    "struct netgraft_stack_v1" Table {
        size: u32, version: u32, flags: u64,
        name: *const c_char, version_text: *const c_char, needs: *const c_char,
        sockets: *const SocketSpec, socket_count: usize,
        options: *const u32, option_count: usize,
        rules: *const Rule, rule_count: usize,

        create: Fun<unsafe extern "C" fn(*const Config, *const Host, *mut *mut c_void, *mut c_char, usize) -> i32>,
        destroy: Fun<unsafe extern "C" fn(*mut c_void)>,
        init: Fun<unsafe extern "C" fn(*mut c_void, *const c_char, usize, *const i32, usize, u64, *mut c_char, usize) -> i32>,
        poll: Fun<unsafe extern "C" fn(*mut c_void, u64)>,
        drain_events: Fun<unsafe extern "C" fn(*mut c_void, *mut Event, usize) -> i64>,
        add_fd: Fun<unsafe extern "C" fn(*mut c_void, u64, u32) -> i32>,
        update_fd: Fun<unsafe extern "C" fn(*mut c_void, u64, u32) -> i32>,
        remove_fd: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i32>,
        socket: Fun<unsafe extern "C" fn(*mut c_void, *const SocketSpec, *mut u64) -> i32>,
        bind: Fun<unsafe extern "C" fn(*mut c_void, u64, *const Address) -> i32>,
        connect: Fun<unsafe extern "C" fn(*mut c_void, u64, *const Address, u64) -> i32>,
        local_addr: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut Address) -> i32>,
        peer_addr: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut Address) -> i32>,
        send: Fun<unsafe extern "C" fn(*mut c_void, u64, *const c_void, usize, *const Address, u32, u64) -> i64>,
        recv: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut c_void, usize, u32, u64, *mut Received) -> i32>,
        shutdown: Fun<unsafe extern "C" fn(*mut c_void, u64, u32, u64) -> i32>,
        close: Fun<unsafe extern "C" fn(*mut c_void, u64, u64) -> i32>,
        readiness: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i64>,

        pre_init: Fun<unsafe extern "C" fn(*mut c_void, u32, *mut Handover, *mut c_char, usize) -> i32>,
        next_deadline: Fun<unsafe extern "C" fn(*mut c_void) -> u64>,
        wake_fds: Fun<unsafe extern "C" fn(*mut c_void, *mut WakeFd, usize) -> i64>,
        listen: Fun<unsafe extern "C" fn(*mut c_void, u64, u32) -> i32>,
        accept: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut u64, *mut Address) -> i32>,
        disconnect: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i32>,
        abort: Fun<unsafe extern "C" fn(*mut c_void, u64, u64) -> i32>,
        send_room: Fun<unsafe extern "C" fn(*mut c_void, u64) -> u64>,
        queued_in: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i64>,
        queued_out: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i64>,
        take_error: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i32>,
        set_option: Fun<unsafe extern "C" fn(*mut c_void, u64, *const Opt) -> i32>,
        get_option: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut Opt) -> i32>,
        tcp_info: Fun<unsafe extern "C" fn(*mut c_void, u64, *mut TcpInfo) -> i32>,
        interfaces: Fun<unsafe extern "C" fn(*mut c_void, *mut Interface, usize) -> i64>,
        addresses: Fun<unsafe extern "C" fn(*mut c_void, u32, *mut Cidr, usize) -> i64>,
        add_address: Fun<unsafe extern "C" fn(*mut c_void, u32, *const Cidr) -> i32>,
        remove_address: Fun<unsafe extern "C" fn(*mut c_void, u32, *const Cidr) -> i32>,
        routes: Fun<unsafe extern "C" fn(*mut c_void, *mut Route, usize) -> i64>,
        add_route: Fun<unsafe extern "C" fn(*mut c_void, *const Route) -> i32>,
        remove_route: Fun<unsafe extern "C" fn(*mut c_void, *const Route) -> i32>,
        tcp_receive_buffer: Fun<unsafe extern "C" fn(*mut c_void, *mut BufferSizes) -> i32>,
        set_tcp_receive_buffer: Fun<unsafe extern "C" fn(*mut c_void, *const BufferSizes) -> i32>,
        tcp_send_buffer: Fun<unsafe extern "C" fn(*mut c_void, *mut BufferSizes) -> i32>,
        set_tcp_send_buffer: Fun<unsafe extern "C" fn(*mut c_void, *const BufferSizes) -> i32>,
        tcp_sack: Fun<unsafe extern "C" fn(*mut c_void) -> i32>,
        set_tcp_sack: Fun<unsafe extern "C" fn(*mut c_void, u32) -> i32>,
        tcp_recovery: Fun<unsafe extern "C" fn(*mut c_void) -> i32>,
        set_tcp_recovery: Fun<unsafe extern "C" fn(*mut c_void, u32) -> i32>,
        statistics: Fun<unsafe extern "C" fn(*mut c_void, *mut Statistics) -> i32>,
        port_range: Fun<unsafe extern "C" fn(*mut c_void, *mut u16, *mut u16) -> i32>,
        set_port_range: Fun<unsafe extern "C" fn(*mut c_void, u16, u16) -> i32>,
        forwarding: Fun<unsafe extern "C" fn(*mut c_void, u32) -> i32>,
        set_forwarding: Fun<unsafe extern "C" fn(*mut c_void, u32, u32) -> i32>,
        pause: Fun<unsafe extern "C" fn(*mut c_void) -> i32>,
        resume: Fun<unsafe extern "C" fn(*mut c_void) -> i32>,
        take_host_fd: Fun<unsafe extern "C" fn(*mut c_void, u64) -> i32>,
        bind_host_fd: Fun<unsafe extern "C" fn(*mut c_void, i32, *const Address) -> i32>,
    }
}

/// The entry point of an object: `netgraft_stack`.
pub type Entry = unsafe extern "C" fn(u32) -> *const Table;
