/*
 * The inside of the plugin. lwIP keeps its state in global variables, so one instance at a time may be up in a
 * process (struct stack, `running`); any number may exist that are not.
 */
#ifndef NETGRAFT_LWIP_STACK_H
#define NETGRAFT_LWIP_STACK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <netgraft.h>

#include "lwip/ip.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/raw.h"
#include "lwip/tcp.h"
#include "lwip/udp.h"

#define NANOS_PER_MS 1000000ull
#define ADDRESSES_MAX 8 /* configured addresses of the link */
#define FRAME_MAX 65600 /* an IP packet of 65,535 bytes in an Ethernet frame */
#define LOOPBACK_MTU 65496
#define TX_SLOTS 64
#define RX_SLOTS 32
#define RX_PER_POLL 128
#define VNET_LEN 10 /* struct virtio_net_hdr */
#define SLOT (VNET_LEN + FRAME_MAX)

/* Where a socket is in its life. A datagram socket is FRESH until it is bound, then OPEN. */
enum phase {
    PHASE_FRESH,      /* neither connected nor listening */
    PHASE_CONNECTING, /* SYN sent */
    PHASE_OPEN,       /* connected */
    PHASE_LISTENING,
    PHASE_OVER /* the connection has ended; FRESH again after a new connect */
};

/* A datagram that waits to be received. */
struct dgram {
    struct dgram *next;
    struct pbuf *data;
    ip_addr_t from, to;
    uint16_t port;
    uint8_t hops, traffic_class, interface;
};

/* What set_option keeps that lwIP's own control blocks do not. */
struct options {
    uint64_t linger; /* nanoseconds, or NETGRAFT_NO_LINGER */
    uint32_t send_buffer, receive_buffer;
    uint32_t keep_idle, keep_interval, keep_count; /* seconds, seconds, number */
    uint8_t ttl, tos, hops6, class6, multicast_ttl;
    bool reuse, keep_alive, broadcast, no_delay, cork, v6_only, multicast_loop;
};

struct sock {
    uint64_t handle;
    uint8_t family, protocol; /* enum netgraft_family, enum netgraft_protocol */
    enum phase phase;
    union {
        struct tcp_pcb *tcp; /* null when lwIP has no connection for it any more */
        struct udp_pcb *udp;
    } pcb;
    struct options opt;
    int32_t error; /* pending: enum netgraft_error, or 0 */
    bool bound;       /* has a port */
    bool by_program;  /* ... which the program asked for */
    bool explicit_ip; /* ... with an address */
    bool has_peer;
    bool fin_in;             /* the peer sends no more */
    bool shut_in, shut_out;  /* shutdown of the program */
    bool was_reset;          /* both directions are dead */
    bool last_was_refused;   /* a connect that failed: the socket may connect again */
    struct netgraft_address local, peer; /* kept when the control block is gone */
    uint32_t final_state;                /* enum netgraft_tcp_state, without a control block */
    uint32_t waited; /* ticks of 500 ms since connect */
    uint64_t bytes_in, bytes_out;

    /* Stream: the received bytes. */
    struct pbuf *rx;
    uint32_t rx_len;
    uint32_t rx_parts; /* buffers in the chain, or fewer after it was copied */
    /* Datagrams. */
    struct dgram *first, *last;
    uint32_t queued; /* bytes */
    /* Listener, and a connection that waits in its queue. */
    struct sock *queue_first, *queue_last, *queue_next, *listener;
    uint32_t queue_len, backlog;

    /* Event bookkeeping, by the rules of the notifier. */
    bool added, waiting;
    uint32_t mask, ready;
    struct sock *wait_next, *wait_prev;
    struct sock *kind_next, *kind_prev; /* all listeners, or all echo and datagram sockets */
};

struct slot {
    struct sock *sock;
    uint32_t generation;
};

/* A frame that waits to be sent, maybe of several TCP segments for the kernel to cut. */
struct frame {
    uint32_t len;      /* without the virtio-net header */
    uint32_t headers;  /* Ethernet, IP and TCP; 0 if nothing can be added */
    uint32_t ip;       /* bytes of the IP header */
    uint32_t segment;  /* payload of each segment */
    uint32_t segments; /* how many it holds */
    uint32_t next_seq;
};

struct link {
    uint32_t kind;
    char name[16];
    int fd;
    uint8_t mac[6];
    uint32_t mtu;
    bool down; /* the device failed */
    uint8_t *rx, *tx; /* RX_SLOTS and TX_SLOTS buffers of SLOT bytes: a struct virtio_net_hdr and a frame */
    struct frame frames[TX_SLOTS];
    uint32_t tx_first, tx_count;
};

struct stack {
    const struct netgraft_host *host;
    struct link link;
    struct netgraft_cidr addresses[ADDRESSES_MAX];
    size_t address_count;
    struct netgraft_ip gateway4, gateway6;

    bool up, paused, more_input, loop_pending;
    uint64_t now;
    uint64_t tcp_due, slow_due, fast_due, router_due, flush_due; /* NETGRAFT_NEVER when off */
    struct netif lo, nic;
    struct raw_pcb *icmp4, *icmp6;

    struct slot *slots;
    uint32_t slot_count, slot_capacity, *free_slots, free_count;
    uint64_t socket_count;
    struct sock *wait_first, *wait_last;
    struct sock *listeners, *datagrams;
    struct dgram *spare;
    uint32_t spare_count;
    uint16_t port_first, port_last, port_next;
    struct netgraft_statistics stats;
};

/* The instance that owns lwIP in this process, or null. */
extern struct stack *running;

/* port.c */
const char *port_install(void);
err_t port_tcp_output(struct tcp_pcb *pcb);
err_t port_ip_input(struct pbuf *p, struct netif *netif);
u16_t port_ip6_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip6_addr_t *src, const ip6_addr_t *dest);
u16_t port_lwip_standard_chksum(const void *data, int len);
void port_seed(void);
extern bool input_is_trusted; /* the checksums of the packet in hand are known to be right */

/* main.c */
void say(struct stack *st, uint32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));
int32_t explain(char *why, size_t capacity, int32_t error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* address.c */
bool ip_from(const struct netgraft_ip *ip, ip_addr_t *out);
void ip_to(const ip_addr_t *ip, struct netgraft_ip *out);
void ip_to_family(const ip_addr_t *ip, uint8_t family, struct netgraft_ip *out);
int32_t target(struct stack *st, struct sock *s, const struct netgraft_address *address, ip_addr_t *out);
bool is_own(struct stack *st, const ip_addr_t *ip);
bool neighbor_known(struct stack *st, const ip_addr_t *ip);
int32_t error_of(err_t err);

/* socket.c */
struct sock *find(struct stack *st, uint64_t handle);
struct sock *sock_new(struct stack *st, uint8_t family, uint8_t protocol);
void sock_free(struct stack *st, struct sock *s);
void sock_changed(struct stack *st, struct sock *s, bool news);
void list_add(struct sock **head, struct sock *s);
void list_remove(struct sock **head, struct sock *s);
int32_t bind_port(struct stack *st, struct sock *s, const ip_addr_t *ip, uint16_t port);
uint32_t ready_now(struct sock *s);
int32_t take_pending(struct stack *st, struct sock *s);

/* stream.c */
int32_t stream_open(struct sock *s);
int32_t stream_connect(struct stack *st, struct sock *s, const struct netgraft_address *address);
int64_t stream_send(struct stack *st, struct sock *s, const void *data, size_t length, uint32_t flags);
int64_t stream_recv_with(struct stack *st, struct sock *s, netgraft_lend take, void *caller);
int32_t stream_recv(struct stack *st, struct sock *s, void *buffer, size_t capacity, uint32_t flags,
                    struct netgraft_received *received);
int32_t stream_shutdown(struct stack *st, struct sock *s, uint32_t how);
int32_t stream_listen(struct stack *st, struct sock *s, uint32_t backlog);
int32_t stream_accept(struct stack *st, struct sock *s, uint64_t *connection, struct netgraft_address *peer);
void stream_close(struct stack *st, struct sock *s, bool abort);
uint32_t stream_room(const struct sock *s);
uint32_t stream_ready(struct sock *s);
void stream_apply(struct sock *s);
int32_t stream_info(struct sock *s, struct netgraft_tcp_info *out);
bool listener_full(const ip_addr_t *to, uint16_t port);

/* datagram.c */
int32_t datagram_open(struct stack *st, struct sock *s);
int32_t datagram_connect(struct stack *st, struct sock *s, const struct netgraft_address *address);
int32_t datagram_disconnect(struct stack *st, struct sock *s);
int64_t datagram_send(struct stack *st, struct sock *s, const void *data, size_t length,
                      const struct netgraft_address *to);
int32_t datagram_recv(struct stack *st, struct sock *s, void *buffer, size_t capacity, uint32_t flags,
                      struct netgraft_received *received);
void datagram_close(struct stack *st, struct sock *s);
void datagram_apply(struct sock *s);
void datagram_put(struct stack *st, struct sock *s, struct pbuf *data, const ip_addr_t *from, uint16_t port);

/* echo.c */
int32_t echo_start(struct stack *st);
int32_t echo_bind(struct stack *st, struct sock *s, uint16_t identifier);
int64_t echo_send(struct stack *st, struct sock *s, const void *data, size_t length, const ip_addr_t *to);

/* options.c */
#define OPTION_COUNT 20
extern const uint32_t option_names[OPTION_COUNT];
void options_default(struct sock *s);
int32_t option_set(void *self, uint64_t handle, const struct netgraft_option *option);
int32_t option_get(void *self, uint64_t handle, struct netgraft_option *out);

/* link.c */
int32_t link_pre_init(void *self, uint32_t pid, struct netgraft_handover *out, char *why, size_t why_capacity);
int32_t link_adopt(struct stack *st, const char *text, size_t length, const int32_t *fds, size_t fd_count, char *why,
                   size_t why_capacity);
err_t link_output(struct netif *netif, struct pbuf *p);
void link_receive(struct stack *st);
void link_flush(struct stack *st);
void link_close(struct stack *st);

/* offload.c */
bool offload_append(struct frame *last, uint8_t *slot, const struct pbuf *p);
void offload_begin(struct frame *frame, const uint8_t *slot);
void offload_finish(const struct frame *frame, uint8_t *slot);

/* timer.c */
void timers_run(struct stack *st);
uint64_t timers_due(struct stack *st);
void router_announce(struct stack *st);

/* inet.c */
int64_t inet_interfaces(void *self, struct netgraft_interface *out, size_t capacity);
int64_t inet_addresses(void *self, uint32_t index, struct netgraft_cidr *out, size_t capacity);
int64_t inet_routes(void *self, struct netgraft_route *out, size_t capacity);
int32_t inet_buffer(void *self, struct netgraft_buffer_sizes *out);
int32_t inet_sack(void *self);
int32_t inet_recovery(void *self);
int32_t inet_statistics(void *self, struct netgraft_statistics *out);
int32_t inet_port_range(void *self, uint16_t *first, uint16_t *last);
int32_t inet_set_port_range(void *self, uint16_t first, uint16_t last);
int32_t inet_forwarding(void *self, uint32_t family);
int32_t inet_pause(void *self);
int32_t inet_resume(void *self);

#endif
