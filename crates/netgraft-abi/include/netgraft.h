/*
 * The C interface between netgraft and a network stack: level 1.
 *
 * A stack is a shared object that exports one function, netgraft_stack(). It returns a table of functions. All
 * the rest is in the table: the object needs no other symbol, links with nothing of netgraft, and may serve
 * several instances at a time, each with a context of its own.
 *
 * docs/stack-authors.md leads from an empty file to a stack that runs redis. The words used here are those of
 * the Rust contract, crate netgraft-plugin, which this interface mirrors one to one.
 *
 * The order of calls
 *   netgraft_stack() may be called in any process, any number of times, and only returns the table.
 *   In a process before the sentry:  create, pre_init, destroy.
 *   In the confined sentry:          create, init, then anything else, and destroy at last.
 *   No call runs with more rights than the sentry has: an empty file system, an empty network namespace, no
 *   capability, and the system calls of the base and of netgraft_stack_v1.rules. pre_init can open a device
 *   only if the operator says --trust-pre-init: it has the launcher's rights then. Without it netgraft opens
 *   the link, and passes its descriptor to init.
 *
 * Rules that hold everywhere
 *   Threads    One instance is called from one thread at a time. Different instances may be called at once.
 *   Blocking   No call blocks. What cannot be done now answers NETGRAFT_E_AGAIN or NETGRAFT_E_IN_PROGRESS, and an
 *              event says later when to ask again.
 *   Time       The caller reads the clock. Every `now` is in nanoseconds on a monotonic clock with any start.
 *   Results    0 or a count is success, a negative value is one of enum netgraft_error, never an errno.
 *   Memory     Never changes hands. What a pointer leads to belongs to the side that made it: arguments, the buffers among
 *              them, to the caller, who may reuse them as soon as the call has returned; the table and all that
 *              it points to, to the object, unchanged for as long as it is loaded. The context alone passes
 *              from create to destroy.
 *   Fds        Belong to the side that opened them, with two exceptions that change owner on success: the ones of struct
 *              netgraft_handover in pre_init (to the caller), and those of init (to the stack).
 *   Lists      A function that fills an array takes its capacity in elements and returns how many elements there
 *              are, which may be more than the capacity: then only the first `capacity` were written. A null
 *              array with capacity 0 asks for the count.
 *   Texts      UTF-8. `const char *` without a length ends in a zero byte.
 *   Zero       Reserved fields, and the unused bytes of unions, are zero when written, and ignored when read.
 *
 * Growth
 *   A struct below never changes within major version 1, and the number of an enumerator is never used again. New
 *   minor versions add functions at the end of the table, and enumerators. Both sides take what the `size` field
 *   says is there. A function that is absent, or null and marked optional, is "not supported".
 */
#ifndef NETGRAFT_H
#define NETGRAFT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NETGRAFT_VERSION_MAJOR 1u
#define NETGRAFT_VERSION_MINOR 3u
/* What this header describes: the major version in the upper 16 bits, the minor version in the lower ones. */
#define NETGRAFT_VERSION ((NETGRAFT_VERSION_MAJOR << 16) | NETGRAFT_VERSION_MINOR)

/* Marks the one exported function, for objects built with -fvisibility=hidden. */
#if defined(__GNUC__)
#define NETGRAFT_EXPORT __attribute__((visibility("default")))
#else
#define NETGRAFT_EXPORT
#endif

/* ---- Numbers --------------------------------------------------------------------------------------------- */

/* Why a call failed. Each stands for the errno in its comment, with the meaning that it has in socket calls. */
enum netgraft_error {
    NETGRAFT_OK = 0,
    NETGRAFT_E_AGAIN = -1,                    /* EAGAIN: an event will say when */
    NETGRAFT_E_IN_PROGRESS = -2,              /* EINPROGRESS: the connection is being made */
    NETGRAFT_E_ALREADY = -3,                  /* EALREADY */
    NETGRAFT_E_IS_CONNECTED = -4,             /* EISCONN */
    NETGRAFT_E_NOT_CONNECTED = -5,            /* ENOTCONN */
    NETGRAFT_E_DESTINATION_REQUIRED = -6,     /* EDESTADDRREQ */
    NETGRAFT_E_ADDRESS_IN_USE = -7,           /* EADDRINUSE */
    NETGRAFT_E_ADDRESS_NOT_AVAILABLE = -8,    /* EADDRNOTAVAIL */
    NETGRAFT_E_FAMILY_NOT_SUPPORTED = -9,     /* EAFNOSUPPORT */
    NETGRAFT_E_CONNECTION_REFUSED = -10,      /* ECONNREFUSED */
    NETGRAFT_E_CONNECTION_RESET = -11,        /* ECONNRESET */
    NETGRAFT_E_CONNECTION_ABORTED = -12,      /* ECONNABORTED */
    NETGRAFT_E_TIMED_OUT = -13,               /* ETIMEDOUT */
    NETGRAFT_E_NETWORK_UNREACHABLE = -14,     /* ENETUNREACH */
    NETGRAFT_E_HOST_UNREACHABLE = -15,        /* EHOSTUNREACH */
    NETGRAFT_E_NETWORK_DOWN = -16,            /* ENETDOWN */
    NETGRAFT_E_BROKEN_PIPE = -17,             /* EPIPE: after a shutdown for sending, or never connected */
    NETGRAFT_E_MESSAGE_TOO_LONG = -18,        /* EMSGSIZE */
    NETGRAFT_E_BAD_HANDLE = -19,              /* EBADF: the handle is none of the stack's */
    NETGRAFT_E_INVALID = -20,                 /* EINVAL */
    NETGRAFT_E_NOT_SUPPORTED = -21,           /* EOPNOTSUPP */
    NETGRAFT_E_UNKNOWN_OPTION = -22,          /* ENOPROTOOPT */
    NETGRAFT_E_PROTOCOL_NOT_SUPPORTED = -23,  /* EPROTONOSUPPORT */
    NETGRAFT_E_KIND_NOT_SUPPORTED = -24,      /* ESOCKTNOSUPPORT */
    NETGRAFT_E_NOT_PERMITTED = -25,           /* EPERM */
    NETGRAFT_E_ACCESS_DENIED = -26,           /* EACCES */
    NETGRAFT_E_NO_BUFFERS = -27,              /* ENOBUFS */
    NETGRAFT_E_NO_MEMORY = -28,               /* ENOMEM */
    NETGRAFT_E_TOO_MANY_SOCKETS = -29,        /* ENFILE */
    NETGRAFT_E_NOT_FOUND = -30,               /* ENODEV: a route, an interface, an address */
    NETGRAFT_E_EXISTS = -31,                  /* EEXIST */
    NETGRAFT_E_OUT_OF_RANGE = -32,            /* EDOM */
    NETGRAFT_E_IO = -33,                      /* EIO: the device failed, or an inner error */
    NETGRAFT_E_BROKEN = -34                   /* ENETDOWN, for good: log why, and the stack is ended as if it had crashed */
};

/* The family of an address or a socket. */
enum netgraft_family {
    NETGRAFT_FAMILY_NONE = 0, /* no address */
    NETGRAFT_FAMILY_V4 = 4,
    NETGRAFT_FAMILY_V6 = 6
};

/* The type of a socket (socket(2)). */
enum netgraft_kind {
    NETGRAFT_KIND_STREAM = 1,
    NETGRAFT_KIND_DATAGRAM = 2,
    NETGRAFT_KIND_RAW = 3
};

/* The protocol of a socket, never a default. */
enum netgraft_protocol {
    NETGRAFT_PROTOCOL_TCP = 1,    /* of a stream socket */
    NETGRAFT_PROTOCOL_UDP = 2,    /* of a datagram socket */
    NETGRAFT_PROTOCOL_ICMP = 3,   /* of a datagram socket: echo (icmp(7)); the port of its addresses is the identifier */
    NETGRAFT_PROTOCOL_ICMPV6 = 4, /* the same for ICMPv6 */
    NETGRAFT_PROTOCOL_RAW = 5     /* of a raw socket: the IP protocol is netgraft_socket_spec.number */
};

/* Which half of a connection to close (shutdown(2)). */
enum netgraft_how {
    NETGRAFT_SHUTDOWN_READ = 0,
    NETGRAFT_SHUTDOWN_WRITE = 1,
    NETGRAFT_SHUTDOWN_BOTH = 2
};

/* Flags of send, a set of bits (send(2)). A stack that cannot do OUT_OF_BAND answers NETGRAFT_E_NOT_SUPPORTED. */
enum netgraft_send_flag {
    NETGRAFT_SEND_MORE = 1,
    NETGRAFT_SEND_DONT_ROUTE = 2,
    NETGRAFT_SEND_OUT_OF_BAND = 4
};

/* Flags of recv, a set of bits (recv(2)). */
enum netgraft_recv_flag {
    NETGRAFT_RECV_PEEK = 1 /* leave the data where it is */
};

/* What a socket is ready for, a set of the bits of epoll_ctl(2). */
enum netgraft_ready {
    NETGRAFT_READY_IN = 0x001,    /* data, a connection to accept, or the end of the stream can be read */
    NETGRAFT_READY_PRI = 0x002,   /* urgent data can be read */
    NETGRAFT_READY_OUT = 0x004,   /* something can be written; a connection attempt has ended */
    NETGRAFT_READY_ERR = 0x008,   /* an error is pending: take_error */
    NETGRAFT_READY_HUP = 0x010,   /* both directions are closed */
    NETGRAFT_READY_RDHUP = 0x2000 /* the peer sends no more */
};

/* Flags of a stack, a set of bits. */
enum netgraft_stack_flag {
    NETGRAFT_STACK_HOST_FDS = 1 /* sockets are the host's own descriptors: take_host_fd works for each */
};

/* Levels of a log line. */
enum netgraft_log_level {
    NETGRAFT_LOG_ERROR = 1,
    NETGRAFT_LOG_WARN = 2,
    NETGRAFT_LOG_INFO = 3,
    NETGRAFT_LOG_DEBUG = 4,
    NETGRAFT_LOG_TRACE = 5
};

/* Where a packet stack's frames go. */
enum netgraft_link_kind {
    NETGRAFT_LINK_NONE = 0,  /* nowhere: only the stack's own loopback works */
    NETGRAFT_LINK_TAP = 1,   /* a TAP device of this name in the caller's network namespace, made if absent */
    NETGRAFT_LINK_PACKET = 2 /* an existing interface there, through AF_PACKET (packet(7)) */
};

/* How TCP recovers from loss. */
enum netgraft_recovery {
    NETGRAFT_RECOVERY_TIMEOUT = 0,  /* time-outs only */
    NETGRAFT_RECOVERY_NEW_RENO = 1, /* fast retransmit (RFC 5681, RFC 6582) */
    NETGRAFT_RECOVERY_SACK = 2,     /* selective acknowledgement (RFC 6675) */
    NETGRAFT_RECOVERY_RACK = 3      /* RFC 8985 */
};

/* The state of a TCP connection (RFC 9293 section 3.3.2), numbered as in TCP_INFO (tcp(7)). */
enum netgraft_tcp_state {
    NETGRAFT_TCP_ESTABLISHED = 1,
    NETGRAFT_TCP_SYN_SENT = 2,
    NETGRAFT_TCP_SYN_RECEIVED = 3,
    NETGRAFT_TCP_FIN_WAIT_1 = 4,
    NETGRAFT_TCP_FIN_WAIT_2 = 5,
    NETGRAFT_TCP_TIME_WAIT = 6,
    NETGRAFT_TCP_CLOSED = 7,
    NETGRAFT_TCP_CLOSE_WAIT = 8,
    NETGRAFT_TCP_LAST_ACK = 9,
    NETGRAFT_TCP_LISTEN = 10,
    NETGRAFT_TCP_CLOSING = 11
};

/* What a TCP connection does about losses, numbered as in TCP_INFO (tcpi_ca_state). */
enum netgraft_congestion_state {
    NETGRAFT_CONGESTION_OPEN = 0,     /* nothing is missing, as far as is known */
    NETGRAFT_CONGESTION_DISORDER = 1, /* segments have arrived out of order */
    NETGRAFT_CONGESTION_REDUCED = 2,  /* a router said that the path is full (RFC 3168) */
    NETGRAFT_CONGESTION_RECOVERY = 3, /* losses are being repaired */
    NETGRAFT_CONGESTION_LOSS = 4      /* the retransmission time-out has passed */
};

/* What the two ends of a TCP connection have agreed on: bits of `agreed` in struct netgraft_tcp_details. */
enum netgraft_agreed {
    NETGRAFT_AGREED_TIMESTAMPS = 1,    /* RFC 7323 section 3 */
    NETGRAFT_AGREED_SACK = 2,          /* RFC 2018 */
    NETGRAFT_AGREED_WINDOW_SCALES = 4, /* RFC 7323 section 2 */
    NETGRAFT_AGREED_ECN = 8,           /* RFC 3168 */
    NETGRAFT_AGREED_FAST_OPEN = 16     /* data came or went with the SYN (RFC 7413) */
};

/* What is counted of TCP, all connections together: with the names in /proc/net/netstat and /proc/net/snmp. */
enum netgraft_tcp_count {
    NETGRAFT_TCP_COUNT_RETRANSMITTED = 1, /* segments sent again (RetransSegs) */
    NETGRAFT_TCP_COUNT_TIMEOUTS = 2, /* retransmission time-outs (TCPTimeouts) */
    NETGRAFT_TCP_COUNT_SPURIOUS_TIMEOUTS = 3, /* those of them that were in vain (TCPSpuriousRTOs; RFC 5682) */
    NETGRAFT_TCP_COUNT_LOSS_PROBES = 4, /* tail loss probes (TCPLossProbes; RFC 8985 section 7) */
    NETGRAFT_TCP_COUNT_SACK_RECOVERIES = 5, /* losses found by selective acknowledgements (TCPSackRecovery) */
    NETGRAFT_TCP_COUNT_RENO_RECOVERIES = 6, /* losses found by duplicate acknowledgements (TCPRenoRecovery) */
    NETGRAFT_TCP_COUNT_UNDONE = 7, /* losses that turned out to be none (TCPFullUndo) */
    NETGRAFT_TCP_COUNT_DUPLICATES_REPORTED = 8, /* duplicates that peers reported (TCPDSACKRecv; RFC 2883) */
    NETGRAFT_TCP_COUNT_OUT_OF_ORDER = 9, /* segments that came out of order (TCPOFOQueue) */
    NETGRAFT_TCP_COUNT_CHALLENGES = 10, /* challenges to segments that may be forged (TCPChallengeACK; RFC 5961) */
    NETGRAFT_TCP_COUNT_COOKIES_SENT = 11, /* SYN cookies sent (SyncookiesSent; RFC 4987) */
    NETGRAFT_TCP_COUNT_COOKIES_RECEIVED = 12, /* SYN cookies taken up (SyncookiesRecv) */
    NETGRAFT_TCP_COUNT_TIMED_OUT = 13, /* connections that ended since nobody answered (TCPAbortOnTimeout) */
    NETGRAFT_TCP_COUNT_FAST_OPEN_ACTIVE = 14, /* SYNs whose data the peer took (TCPFastOpenActive; RFC 7413) */
    NETGRAFT_TCP_COUNT_FAST_OPEN_PASSIVE = 15, /* SYNs of peers whose data was taken (TCPFastOpenPassive) */
    NETGRAFT_TCP_COUNT_MEMORY_PRESSURES = 16 /* times that the memory for data became short (TCPMemoryPressures) */
};

/* Which member of union netgraft_value is meant. */
enum netgraft_value_type {
    NETGRAFT_VALUE_BOOL = 1,     /* number: 0 or 1 */
    NETGRAFT_VALUE_NUMBER = 2,   /* number */
    NETGRAFT_VALUE_DURATION = 3, /* nanoseconds; NETGRAFT_NO_LINGER in NETGRAFT_O_LINGER for "off" */
    NETGRAFT_VALUE_TEXT = 4,     /* text */
    NETGRAFT_VALUE_IPV4 = 5,     /* ipv4 */
    NETGRAFT_VALUE_GROUP4 = 6,   /* group4 */
    NETGRAFT_VALUE_GROUP6 = 7    /* group6 */
};

/* Socket options: the Linux name and the type of the value. */
enum netgraft_option_name {
    NETGRAFT_O_REUSE_ADDRESS = 1,        /* SO_REUSEADDR, bool */
    NETGRAFT_O_REUSE_PORT = 2,           /* SO_REUSEPORT, bool */
    NETGRAFT_O_KEEP_ALIVE = 3,           /* SO_KEEPALIVE, bool */
    NETGRAFT_O_LINGER = 4,               /* SO_LINGER, duration; zero resets the connection at close */
    NETGRAFT_O_SEND_BUFFER = 5,          /* SO_SNDBUF, number of bytes as set */
    NETGRAFT_O_RECEIVE_BUFFER = 6,       /* SO_RCVBUF, number of bytes as set */
    NETGRAFT_O_BROADCAST = 7,            /* SO_BROADCAST, bool */
    NETGRAFT_O_OUT_OF_BAND_INLINE = 8,   /* SO_OOBINLINE, bool */
    NETGRAFT_O_DONT_ROUTE = 9,           /* SO_DONTROUTE, bool */
    NETGRAFT_O_PRIORITY = 10,            /* SO_PRIORITY, number */
    NETGRAFT_O_BIND_TO_DEVICE = 11,      /* SO_BINDTODEVICE, text; empty for none */
    NETGRAFT_O_TTL = 12,                 /* IP_TTL, number to 255 */
    NETGRAFT_O_TYPE_OF_SERVICE = 13,     /* IP_TOS, number to 255 */
    NETGRAFT_O_MULTICAST_TTL = 14,       /* IP_MULTICAST_TTL, number to 255 */
    NETGRAFT_O_MULTICAST_LOOP = 15,      /* IP_MULTICAST_LOOP, bool */
    NETGRAFT_O_MULTICAST_INTERFACE = 16, /* IP_MULTICAST_IF, ipv4 of the interface */
    NETGRAFT_O_JOIN_GROUP = 17,          /* IP_ADD_MEMBERSHIP, group4 */
    NETGRAFT_O_LEAVE_GROUP = 18,         /* IP_DROP_MEMBERSHIP, group4 */
    NETGRAFT_O_PATH_MTU = 19,            /* IP_MTU, number; read only */
    NETGRAFT_O_MTU_DISCOVER = 20,        /* IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, number of IP_PMTUDISC_* */
    NETGRAFT_O_RECEIVE_ERRORS = 21,      /* IP_RECVERR, IPV6_RECVERR, bool */
    NETGRAFT_O_V6_ONLY = 22,             /* IPV6_V6ONLY, bool */
    NETGRAFT_O_UNICAST_HOPS = 23,        /* IPV6_UNICAST_HOPS, number to 255 */
    NETGRAFT_O_TRAFFIC_CLASS = 24,       /* IPV6_TCLASS, number to 255 */
    NETGRAFT_O_MULTICAST_HOPS = 25,      /* IPV6_MULTICAST_HOPS, number to 255 */
    NETGRAFT_O_MULTICAST_LOOP6 = 26,     /* IPV6_MULTICAST_LOOP, bool */
    NETGRAFT_O_MULTICAST_INTERFACE6 = 27, /* IPV6_MULTICAST_IF, number: interface index */
    NETGRAFT_O_JOIN_GROUP6 = 28,         /* IPV6_ADD_MEMBERSHIP, group6 */
    NETGRAFT_O_LEAVE_GROUP6 = 29,        /* IPV6_DROP_MEMBERSHIP, group6 */
    NETGRAFT_O_NO_DELAY = 30,            /* TCP_NODELAY, bool */
    NETGRAFT_O_CORK = 31,                /* TCP_CORK, bool */
    NETGRAFT_O_QUICK_ACK = 32,           /* TCP_QUICKACK, bool */
    NETGRAFT_O_KEEP_IDLE = 33,           /* TCP_KEEPIDLE, duration */
    NETGRAFT_O_KEEP_INTERVAL = 34,       /* TCP_KEEPINTVL, duration */
    NETGRAFT_O_KEEP_COUNT = 35,          /* TCP_KEEPCNT, number */
    NETGRAFT_O_USER_TIMEOUT = 36,        /* TCP_USER_TIMEOUT, duration; zero is the stack's own */
    NETGRAFT_O_DEFER_ACCEPT = 37,        /* TCP_DEFER_ACCEPT, duration; zero is off */
    NETGRAFT_O_SYN_COUNT = 38,           /* TCP_SYNCNT, number */
    NETGRAFT_O_FIN_TIMEOUT = 39,         /* TCP_LINGER2, duration */
    NETGRAFT_O_WINDOW_CLAMP = 40,        /* TCP_WINDOW_CLAMP, number of bytes */
    NETGRAFT_O_NOT_SENT_LOW_WATER = 41,  /* TCP_NOTSENT_LOWAT, number of bytes */
    NETGRAFT_O_MAX_SEGMENT = 42,         /* TCP_MAXSEG, number of bytes */
    NETGRAFT_O_CONGESTION = 43,          /* TCP_CONGESTION, text */
    NETGRAFT_O_HEADER_INCLUDED = 44,     /* IP_HDRINCL, IPV6_HDRINCL, bool; a raw socket's data begins with the IP header */
    NETGRAFT_O_FAST_OPEN = 45,           /* TCP_FASTOPEN, number: connections that take data before their handshake is done */
    NETGRAFT_O_FAST_OPEN_CONNECT = 46    /* TCP_FASTOPEN_CONNECT, bool: data leaves with the SYN */
};

/* Linger "off" (NETGRAFT_O_LINGER), "never" (next_deadline), "cannot tell" (send_room). */
#define NETGRAFT_NO_LINGER UINT64_MAX
#define NETGRAFT_NEVER UINT64_MAX
#define NETGRAFT_UNKNOWN_ROOM UINT64_MAX

/* ---- Values ---------------------------------------------------------------------------------------------- */

/* An IP address. IPv4 stands in the first 4 bytes, in network order. */
struct netgraft_ip {
    uint16_t family; /* enum netgraft_family */
    uint16_t reserved;
    uint8_t bytes[16];
};

/* An IP address and a port. */
struct netgraft_address {
    struct netgraft_ip ip;
    uint16_t port; /* host order */
    uint16_t reserved;
    uint32_t flow_info; /* host order; IPv6 only */
    uint32_t scope_id;  /* interface index of a link-local address; IPv6 only */
};

/* An address and the length of its network's prefix in bits. */
struct netgraft_cidr {
    struct netgraft_ip ip;
    uint8_t prefix;
    uint8_t reserved[3];
};

/* What kind of socket. */
struct netgraft_socket_spec {
    uint16_t family;   /* enum netgraft_family */
    uint8_t kind;      /* enum netgraft_kind */
    uint8_t protocol;  /* enum netgraft_protocol */
    uint8_t number;    /* the IP protocol of a raw socket, else 0 */
    uint8_t reserved[3];
};

/* An IPv4 multicast group and the address of an interface. */
struct netgraft_group4 {
    uint8_t group[4];
    uint8_t interface_address[4];
};

/* An IPv6 multicast group and the index of an interface. */
struct netgraft_group6 {
    uint8_t group[16];
    uint32_t interface_index;
};

/* The value of an option. */
union netgraft_value {
    uint64_t number;
    uint64_t nanoseconds;
    char text[32]; /* ends in a zero byte */
    uint8_t ipv4[4];
    struct netgraft_group4 group4;
    struct netgraft_group6 group6;
};

/* An option with its value. */
struct netgraft_option {
    uint32_t name; /* enum netgraft_option_name */
    uint32_t type; /* enum netgraft_value_type, the one that the name has */
    union netgraft_value value;
};

/* What a receive gave. */
struct netgraft_received {
    uint64_t len;                 /* bytes written to the buffer; 0 is the end of a stream */
    uint64_t full_len;            /* the datagram's own length, more than len if it was cut; len for a stream */
    struct netgraft_address from; /* the sender of a datagram; FAMILY_NONE for a stream */
    struct netgraft_ip to;        /* where the datagram was sent to; FAMILY_NONE if the stack does not know */
    uint32_t interface_index;     /* where it came in, or 0 */
    uint8_t hop_limit;            /* TTL or hop limit of the packet, or 0 */
    uint8_t traffic_class;        /* TOS or traffic class of the packet */
    uint8_t reserved[2];
};

/* A piece of memory that a stack lends for the time of a call; never empty. */
struct netgraft_piece {
    void *bytes;
    size_t length;
};

/* A datagram of a batch that is sent. */
struct netgraft_datagram {
    const void *data;
    size_t length;
    struct netgraft_address to; /* its destination; FAMILY_NONE: the socket's peer */
    uint32_t reserved;
};

/*
 * A function of the caller that moves bytes: into the pieces if they are lent for a send, out of them if they are lent
 * for a receive, from the first piece on. Returns how many bytes it moved, which may be none. `caller` is what the
 * stack was given with the function. To be called during that call, in its thread, once at most, with 1 to 16 pieces
 * that do not overlap.
 */
typedef uint64_t (*netgraft_lend)(void *caller, const struct netgraft_piece *pieces, size_t count);

/* A function of the caller that takes a datagram of received->len bytes. To be called during the call that it was given
 * with, in its thread. */
typedef void (*netgraft_deliver)(void *caller, const struct netgraft_received *received, const void *data);

/* A socket's readiness. */
struct netgraft_event {
    uint64_t handle;
    uint32_t events; /* set of enum netgraft_ready: all that it is ready for now, not only what changed */
    uint32_t reserved;
};

/* A descriptor that wakes the stack. It stays the stack's, and stays open until destroy. */
struct netgraft_wake_fd {
    int32_t fd;
    uint32_t events; /* NETGRAFT_READY_IN, NETGRAFT_READY_OUT or both; waited for by level */
};

/* What a stack knows of a TCP connection (TCP_INFO, tcp(7)); zero where it does not know. */
struct netgraft_tcp_info {
    uint32_t state; /* enum netgraft_tcp_state */
    uint32_t reserved;
    uint64_t rtt;          /* smoothed round-trip time, nanoseconds */
    uint64_t rtt_variance; /* nanoseconds */
    uint64_t rto;          /* retransmission time-out, nanoseconds */
    uint32_t send_mss;     /* bytes */
    uint32_t receive_mss;
    uint32_t congestion_window; /* bytes */
    uint32_t unacknowledged;    /* bytes */
    uint32_t retransmits;       /* segments since the connection began */
    uint32_t send_window;       /* bytes */
    uint32_t receive_window;    /* bytes */
    uint32_t reserved2;
    uint64_t bytes_sent; /* payload since the connection began */
    uint64_t bytes_received;
};

/* More of what a stack knows of a TCP connection (TCP_INFO, tcp(7)); zero where it does not know. */
struct netgraft_tcp_details {
    uint32_t slow_start_threshold;     /* bytes; 4294967295 while there is none */
    uint32_t selectively_acknowledged; /* of the unacknowledged bytes; of a listener its backlog */
    uint32_t lost;                     /* of the unacknowledged bytes: believed lost */
    uint32_t not_sent;                 /* bytes that the program has written and that were not sent */
    uint64_t least_rtt;                /* shortest round-trip time of the last minutes, nanoseconds */
    uint64_t delivery_rate;            /* bytes per second that arrive at the peer, by the last measure */
    uint64_t pacing_rate;              /* bytes per second at which data leaves, if it is paced */
    uint64_t bytes_retransmitted;      /* payload since the connection began */
    uint32_t congestion_state;         /* enum netgraft_congestion_state */
    uint32_t agreed;                   /* bits of enum netgraft_agreed */
    uint32_t backoff;                  /* retransmission time-outs in a row without an answer; at most 255 */
    uint8_t send_window_scale;         /* shift of the peer's windows: at most 14, with NETGRAFT_AGREED_WINDOW_SCALES */
    uint8_t receive_window_scale;      /* shift of the stack's windows */
    uint8_t reserved[2];
};

/* A counter of TCP. */
struct netgraft_tcp_counter {
    uint32_t count; /* enum netgraft_tcp_count */
    uint32_t reserved;
    uint64_t value; /* since the stack began */
};

/* A network interface. Its addresses are asked for with `addresses`. */
struct netgraft_interface {
    uint32_t index; /* from 1; the loopback is 1 */
    uint32_t mtu;   /* largest IP packet in bytes */
    char name[16];  /* 1 to 15 bytes and a zero byte */
    uint8_t up;
    uint8_t loopback;
    uint8_t has_hardware_address;
    uint8_t reserved;
    uint8_t hardware_address[6];
    uint8_t reserved2[2];
};

/* A route. */
struct netgraft_route {
    struct netgraft_cidr destination; /* prefix 0 is the default route */
    struct netgraft_ip gateway;       /* FAMILY_NONE if the network is on the link */
    uint32_t interface_index;
};

/* The sizes that a TCP buffer can have, in bytes: 0 < min <= default <= max. */
struct netgraft_buffer_sizes {
    uint32_t min;
    uint32_t default_size;
    uint32_t max;
};

/* Counters since the stack began; zero where it does not count (RFC 4022, RFC 4113). */
struct netgraft_statistics {
    uint64_t packets_received;
    uint64_t bytes_received;
    uint64_t packets_sent;
    uint64_t bytes_sent;
    uint64_t packets_dropped;
    uint64_t tcp_active_opens;
    uint64_t tcp_passive_opens;
    uint64_t tcp_established;
    uint64_t tcp_attempt_fails;
    uint64_t tcp_resets_received;
    uint64_t tcp_resets_sent;
    uint64_t tcp_listen_overflows;
    uint64_t udp_received;
    uint64_t udp_sent;
    uint64_t udp_no_port;
    uint64_t udp_receive_overflows;
    uint64_t sockets;
};

/* One condition of a system call rule: argument[index] & mask == value. */
struct netgraft_condition {
    uint64_t index; /* 0 to 5 */
    uint64_t mask;
    uint64_t value;
};

/* A system call that the stack needs in the sentry beyond the base (seccomp(2)). */
struct netgraft_rule {
    int64_t number;           /* SYS_... of this architecture */
    uint64_t condition_count; /* 0 to 6: all must hold; none allows any arguments */
    struct netgraft_condition conditions[6];
};

/* ---- What the caller gives -------------------------------------------------------------------------------- */

/* What the operator chose. */
struct netgraft_config {
    uint32_t size;         /* sizeof(struct netgraft_config) of the caller */
    uint32_t link_kind;    /* enum netgraft_link_kind */
    const char *link_name; /* the interface's; empty for NETGRAFT_LINK_NONE */
    const struct netgraft_cidr *addresses; /* of the link's interface */
    size_t address_count;
    const struct netgraft_ip *gateways; /* default gateways, at most one of each family is used */
    size_t gateway_count;
    const char *argument; /* free text for the stack (--plugin-arg), or null */
};

/* What an instance may call, from any thread, between create and the return of destroy. */
struct netgraft_host {
    uint32_t size;    /* sizeof(struct netgraft_host) of the caller */
    uint32_t version; /* NETGRAFT_VERSION of the caller */
    void *context;    /* first argument of the functions */
    /* Writes a line to the operator's log. `level` is one of enum netgraft_log_level. */
    void (*log)(void *context, uint32_t level, const char *text, size_t length);
};

/*
 * Where pre_init writes what is handed to init. Without a link it is empty before the call. With one, the caller has opened
 * it: fds[0] is its descriptor, non-blocking, on which each frame has a struct virtio_net_hdr in front of it, and the text is
 * "tap NAME 02:00:00:00:00:01 1500" (or "packet"): the hardware address of the stack's side and the MTU. Read, write, recvmmsg
 * and sendmmsg work on it, one frame each; nothing else is promised, since it is a socket (SOCK_SEQPACKET) where frames are
 * recorded, delayed or lost on their way to the device. A stack may leave the handover as it is, and so may one without
 * pre_init: it is then what init gets.
 */
struct netgraft_handover {
    char *text; /* free text, not ended by a zero byte */
    size_t text_capacity;
    size_t text_length; /* written by the stack */
    int32_t *fds;       /* owned by the caller after success, all open */
    size_t fd_capacity;
    size_t fd_count; /* written by the stack */
};

/* ---- The table -------------------------------------------------------------------------------------------- */

/*
 * In the functions, `self` is the context that create made, and `why` takes a text for the operator when a set-up
 * function fails: what failed, on what, and what to do, ended by a zero byte, of at most `why_capacity` bytes.
 */
struct netgraft_stack_v1 {
    /* These two never move, in any version. */
    uint32_t size;    /* sizeof(struct netgraft_stack_v1), exactly */
    uint32_t version; /* NETGRAFT_VERSION of the stack */

    uint64_t flags;           /* set of enum netgraft_stack_flag */
    const char *name;         /* letters, digits, '-' and '_' */
    const char *version_text; /* the stack's own version, free text */
    const char *needs;        /* what it needs of the host, in words; empty for nothing */
    const struct netgraft_socket_spec *sockets; /* the sockets that it makes */
    size_t socket_count;
    const uint32_t *options; /* enum netgraft_option_name: the options that it knows */
    size_t option_count;
    const struct netgraft_rule *rules; /* the system calls that it needs beyond the base */
    size_t rule_count;

    /* ---- Mandatory functions ---- */

    /* Makes an instance; only checks the configuration and opens nothing. `host` outlives the instance, `config`
     * only the call. */
    int32_t (*create)(const struct netgraft_config *config, const struct netgraft_host *host, void **self,
                      char *why, size_t why_capacity);
    /* Ends an instance: connections are reset, devices closed, threads stopped, the context freed. */
    void (*destroy)(void *self);
    /* Brings the instance up in the sentry. `text` and `fds` are what pre_init gave, and empty without it. */
    int32_t (*init)(void *self, const char *text, size_t text_length, const int32_t *fds, size_t fd_count,
                    uint64_t now, char *why, size_t why_capacity);

    /* Moves packets and fires timers that are due. Bounded: when much is waiting it does a part, and says with
     * next_deadline that it wants to go on at once. */
    void (*poll)(void *self, uint64_t now);
    /* Takes at most `capacity` events off the queue, each socket at most once; fewer than `capacity` means that
     * none is left. A list function in nothing else. */
    int64_t (*drain_events)(void *self, struct netgraft_event *events, size_t capacity);
    /* Starts reporting `mask` for a socket, plus ERR and HUP, always. What it is ready for already is reported
     * at once. EXISTS if it was added before. */
    int32_t (*add_fd)(void *self, uint64_t handle, uint32_t mask);
    /* Replaces the mask, and reports as add_fd does. BAD_HANDLE if it was not added. */
    int32_t (*update_fd)(void *self, uint64_t handle, uint32_t mask);
    /* Stops reporting. Closing a socket does the same. */
    int32_t (*remove_fd)(void *self, uint64_t handle);

    /* Makes a socket. The stack chooses the handle, and never uses a number again: a counter will do.
     * FAMILY_, KIND_, PROTOCOL_NOT_SUPPORTED, TOO_MANY_SOCKETS. */
    int32_t (*socket)(void *self, const struct netgraft_socket_spec *spec, uint64_t *handle);
    /* Binds to a local address; port 0 asks for a free one. ADDRESS_IN_USE, ADDRESS_NOT_AVAILABLE, INVALID if it is bound.
     * Two sockets share an address and port if both have O_REUSE_ADDRESS and neither listens. The port of a connection that
     * this side closed first stays taken for TIME-WAIT (60 s on Linux), except for sockets with O_REUSE_ADDRESS; a stack in memory,
     * where nothing lingers, may do without and lists that case as known. A datagram socket may bind to a group's address:
     * then it receives only what is sent to the group. */
    int32_t (*bind)(void *self, uint64_t handle, const struct netgraft_address *address);
    /* Connects. A stream answers IN_PROGRESS, also where the outcome is known at once, and reports OUT later, or ERR and HUP
     * with the reason in take_error (CONNECTION_REFUSED, TIMED_OUT, ...). Asked again it answers ALREADY, then
     * IS_CONNECTED, as a listener does at once; after a failure the pending error once, and then it tries anew. To a group or
     * a broadcast address a stream answers NETWORK_UNREACHABLE or ACCESS_DENIED. A datagram socket only notes the peer. */
    int32_t (*connect)(void *self, uint64_t handle, const struct netgraft_address *address, uint64_t now);
    /* The local address; unspecified with port 0 before the socket is bound. */
    int32_t (*local_addr)(void *self, uint64_t handle, struct netgraft_address *address);
    /* The peer's address, or NOT_CONNECTED. */
    int32_t (*peer_addr)(void *self, uint64_t handle, struct netgraft_address *address);
    /* Sends; returns the bytes taken: of a stream as many as there is room for, at least 1, or AGAIN; of a datagram
     * all or none. `to` is null, or the destination of a datagram. The bytes may leave with the next poll.
     * A stream that was never connected, a listener, and one that is shut down for sending answer BROKEN_PIPE. A datagram
     * without a destination answers DESTINATION_REQUIRED, one that is too long MESSAGE_TOO_LONG, one to a broadcast address
     * without O_BROADCAST ACCESS_DENIED (only where that option is declared). A pending error comes first, once. */
    int64_t (*send)(void *self, uint64_t handle, const void *data, size_t length,
                    const struct netgraft_address *to, uint32_t flags, uint64_t now);
    /* Receives into `buffer`, and fills `received`, which is all zero before the call. AGAIN if nothing is there yet. A
     * stream that was never connected, and a listener, answer NOT_CONNECTED. After a reset what had come before is received,
     * then CONNECTION_RESET once, then `len` 0, the end. */
    int32_t (*recv)(void *self, uint64_t handle, void *buffer, size_t capacity, uint32_t flags, uint64_t now,
                    struct netgraft_received *received);
    /* Closes one or both halves: enum netgraft_how. NOT_CONNECTED. */
    int32_t (*shutdown)(void *self, uint64_t handle, uint32_t how, uint64_t now);
    /* Closes the socket; the handle is gone at once. Queued bytes are still delivered, followed by a FIN, unless
     * the linger time is zero. */
    int32_t (*close)(void *self, uint64_t handle, uint64_t now);
    /* What the socket is ready for now: a set of enum netgraft_ready, or an error. */
    int64_t (*readiness)(void *self, uint64_t handle);

    /* ---- Optional functions: null, or beyond `size`, if the stack has not got them. A stack that declares TCP sockets
     * must have listen, accept and take_error, and one that declares options set_option and get_option. Of the options
     * redis-server and python3's http.server need O_REUSE_ADDRESS, and redis O_NO_DELAY. ---- */

    /* Runs in a process of its own, before the sentry, and with no more rights than the sentry has: it can open nothing. Only
     * with --trust-pre-init it has the launcher's rights, and no link is opened for it: then it may open devices of its own,
     * and `pid` is a process of the sandbox whose namespaces (/proc/PID/ns) are the program's. */
    int32_t (*pre_init)(void *self, uint32_t pid, struct netgraft_handover *out, char *why, size_t why_capacity);
    /* The time at which poll is to be called at the latest, or NETGRAFT_NEVER. */
    uint64_t (*next_deadline)(void *self);
    /* List: the descriptors that mean work for poll. They do not change after init. */
    int64_t (*wake_fds)(void *self, struct netgraft_wake_fd *fds, size_t capacity);

    /* Listens; at most `backlog` connections wait to be accepted; a second call changes it. A socket that is not
     * bound gets a free port. ADDRESS_IN_USE, INVALID, NOT_SUPPORTED. */
    int32_t (*listen)(void *self, uint64_t handle, uint32_t backlog);
    /* Takes the first waiting connection: its handle and its peer. AGAIN, INVALID if it does not listen. The new socket is
     * connected, bound to the address that the peer called, not added to the notifier, and has the values that all options
     * had on the listener when the connection came. One that was reset meanwhile is accepted all the same; its first recv
     * says so. */
    int32_t (*accept)(void *self, uint64_t handle, uint64_t *connection, struct netgraft_address *peer);
    /* Forgets a datagram socket's peer. */
    int32_t (*disconnect)(void *self, uint64_t handle);
    /* Closes the socket at once; a connected stream sends a reset. Absent: close. */
    int32_t (*abort)(void *self, uint64_t handle, uint64_t now);
    /* Bytes of a stream that send would take now, or NETGRAFT_UNKNOWN_ROOM. */
    uint64_t (*send_room)(void *self, uint64_t handle);
    /* Bytes that can be received now; of a datagram socket the length of the first datagram. */
    int64_t (*queued_in)(void *self, uint64_t handle);
    /* Bytes sent and not yet acknowledged. */
    int64_t (*queued_out)(void *self, uint64_t handle);
    /* Takes the pending error: it is cleared. NETGRAFT_OK if there is none. Required with TCP sockets. Absent: there never is
     * one. */
    int32_t (*take_error)(void *self, uint64_t handle);
    /* Sets an option: never a silent success. UNKNOWN_OPTION, INVALID. Joining a group twice answers ADDRESS_IN_USE, leaving
     * one that was not joined ADDRESS_NOT_AVAILABLE; a socket receives the datagrams of groups that it has joined, and of no others. */
    int32_t (*set_option)(void *self, uint64_t handle, const struct netgraft_option *option);
    /* Reads the option `out->name`; the caller has filled in name and type. UNKNOWN_OPTION. */
    int32_t (*get_option)(void *self, uint64_t handle, struct netgraft_option *out);
    /* What the stack knows of a TCP connection; `out` is all zero before the call. */
    int32_t (*tcp_info)(void *self, uint64_t handle, struct netgraft_tcp_info *out);

    /* List: the interfaces, the loopback first. */
    int64_t (*interfaces)(void *self, struct netgraft_interface *out, size_t capacity);
    /* List: the addresses of an interface. */
    int64_t (*addresses)(void *self, uint32_t interface_index, struct netgraft_cidr *out, size_t capacity);
    /* NOT_FOUND, EXISTS, NO_BUFFERS. */
    int32_t (*add_address)(void *self, uint32_t interface_index, const struct netgraft_cidr *address);
    int32_t (*remove_address)(void *self, uint32_t interface_index, const struct netgraft_cidr *address);
    /* List: the routes, the most specific first. */
    int64_t (*routes)(void *self, struct netgraft_route *out, size_t capacity);
    /* EXISTS, NETWORK_UNREACHABLE if the gateway is on no link, NO_BUFFERS, NOT_FOUND. */
    int32_t (*add_route)(void *self, const struct netgraft_route *route);
    int32_t (*remove_route)(void *self, const struct netgraft_route *route);
    /* Sizes of TCP buffers; setting them is for sockets made later. INVALID, NOT_SUPPORTED. */
    int32_t (*tcp_receive_buffer)(void *self, struct netgraft_buffer_sizes *out);
    int32_t (*set_tcp_receive_buffer)(void *self, const struct netgraft_buffer_sizes *sizes);
    int32_t (*tcp_send_buffer)(void *self, struct netgraft_buffer_sizes *out);
    int32_t (*set_tcp_send_buffer)(void *self, const struct netgraft_buffer_sizes *sizes);
    /* Whether selective acknowledgements are used (RFC 2018): 0 or 1. */
    int32_t (*tcp_sack)(void *self);
    int32_t (*set_tcp_sack)(void *self, uint32_t on);
    /* How TCP recovers from loss: enum netgraft_recovery. */
    int32_t (*tcp_recovery)(void *self);
    int32_t (*set_tcp_recovery)(void *self, uint32_t recovery);
    /* The counters; `out` is all zero before the call. */
    int32_t (*statistics)(void *self, struct netgraft_statistics *out);
    /* First and last port that sockets get which ask for none. */
    int32_t (*port_range)(void *self, uint16_t *first, uint16_t *last);
    int32_t (*set_port_range)(void *self, uint16_t first, uint16_t last);
    /* Whether packets for others are forwarded: 0 or 1. `family` is one of enum netgraft_family. */
    int32_t (*forwarding)(void *self, uint32_t family);
    int32_t (*set_forwarding)(void *self, uint32_t family, uint32_t on);
    /* Stops all traffic and timers until resume. */
    int32_t (*pause)(void *self);
    int32_t (*resume)(void *self);

    /* For NETGRAFT_STACK_HOST_FDS. Gives up a socket's descriptor, now the caller's; the handle is gone. */
    int32_t (*take_host_fd)(void *self, uint64_t handle);
    /* Binds a descriptor that take_host_fd gave, with the rights that the stack has. */
    int32_t (*bind_host_fd)(void *self, int32_t fd, const struct netgraft_address *address);

    /* ---- Version 1.1: bytes that are moved once, and datagrams in batches ---- */

    /* Sends bytes of a stream that `fill` writes into the stack's own memory: all of them are taken, and returned is
     * how many. AGAIN if there is no room: then fill is not called. NOT_SUPPORTED if the stack does not lend memory
     * now, as while it holds bytes back for MSG_MORE: the caller calls send. Otherwise as send. */
    int64_t (*send_with)(void *self, uint64_t handle, uint32_t flags, uint64_t now, netgraft_lend fill,
                         void *caller);
    /* Shows `take` the first bytes of a stream in the stack's own memory: what it takes is gone, and returned is how
     * many bytes that is. At the end of the stream returns 0, and take is not called. AGAIN if nothing is there;
     * NOT_SUPPORTED if the stack does not lend memory now: the caller calls recv. Otherwise as recv. */
    int64_t (*recv_with)(void *self, uint64_t handle, uint64_t now, netgraft_lend take, void *caller);
    /* Sends datagrams in order, up to the first that fails, and returns how many. `*stopped` is 0 before the call; if
     * not all were sent, it becomes the reason, as send gives it: an error is never lost. */
    int64_t (*send_batch)(void *self, uint64_t handle, const struct netgraft_datagram *batch, size_t count,
                          uint32_t flags, uint64_t now, int32_t *stopped);
    /* Hands at most `limit` datagrams to `deliver`, and returns how many. `*stopped` is 0 before the call; if there
     * were fewer, it becomes the reason, as recv gives it: AGAIN if no more are there. It stays 0 if the socket is
     * shut down for reading and empty. */
    int64_t (*recv_batch)(void *self, uint64_t handle, size_t limit, uint64_t now, netgraft_deliver deliver,
                          void *caller, int32_t *stopped);

    /* ---- Version 1.2: urgent data ---- */

    /* Where urgent data of a stream ends (RFC 9293 section 3.8.5): how many bytes it is until behind the last of it, counted
     * from the next that recv gives, whether they have come or not; 0 if there is none, or it was received. The data
     * itself is in line. A stack without this function has none for programs, whatever its peers send. */
    int64_t (*urgent)(void *self, uint64_t handle);

    /* ---- Version 1.3: more of TCP's measures ---- */

    /* What tcp_info has no place for: asked for when tcp_info has answered OK. `out` is all zero before the call. */
    int32_t (*tcp_details)(void *self, uint64_t handle, struct netgraft_tcp_details *out);
    /* List: the counters of TCP that the stack keeps. One that is not in the list counts as 0. A number that the caller does
     * not know is skipped. */
    int64_t (*tcp_counters)(void *self, struct netgraft_tcp_counter *out, size_t capacity);
};

/*
 * The one function that a stack exports: returns its table, or null if it does not speak the major version of
 * `requested`, which is the NETGRAFT_VERSION of the caller. A stack that is built against this header returns a
 * table of version 1 for every request with major version 1.
 */
NETGRAFT_EXPORT const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested);

#ifdef __cplusplus
}
#endif

#endif
