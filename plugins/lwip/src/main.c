/* The table of functions, and the life of an instance. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lwip/ethip6.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/nd6.h"
#include "netif/ethernet.h"
#include "stack.h"

#define FIRST_PORT 32768
#define LAST_PORT 60999
#define LOOP_ROUNDS 32

void say(struct stack *st, uint32_t level, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length > 0) {
        st->host->log(st->host->context, level, text, LWIP_MIN((size_t)length, sizeof text - 1));
    }
}

/* Writes why a set-up function failed, and answers the error. */
int32_t explain(char *why, size_t capacity, int32_t error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (capacity) {
        vsnprintf(why, capacity, format, args);
    }
    va_end(args);
    return error;
}

/* ---- Life ---- */

static int32_t take_addresses(struct stack *st, const struct netgraft_config *config, char *why, size_t capacity)
{
    size_t v4 = 0, v6 = 0;
    for (size_t i = 0; i < config->address_count; i++) {
        const struct netgraft_cidr *address = &config->addresses[i];
        bool is_v4 = address->ip.family == NETGRAFT_FAMILY_V4;
        v4 += is_v4;
        v6 += !is_v4;
        if (v4 > 1 || v6 > LWIP_IPV6_NUM_ADDRESSES - 1) {
            return explain(why, capacity, NETGRAFT_E_NO_BUFFERS,
                           "lwIP has one IPv4 address and %d IPv6 addresses for each interface",
                           LWIP_IPV6_NUM_ADDRESSES - 1);
        }
        if (!is_v4 && address->prefix != 64) {
            return explain(why, capacity, NETGRAFT_E_INVALID, "lwIP knows IPv6 networks of 64 bits only, not of %u",
                           address->prefix);
        }
        st->addresses[st->address_count++] = *address;
    }
    for (size_t i = config->gateway_count; i-- > 0; ) {
        const struct netgraft_ip *gateway = &config->gateways[i];
        *(gateway->family == NETGRAFT_FAMILY_V4 ? &st->gateway4 : &st->gateway6) = *gateway;
    }
    return 0;
}

static int32_t create(const struct netgraft_config *config, const struct netgraft_host *host, void **self, char *why,
                      size_t why_capacity)
{
    struct stack *st = calloc(1, sizeof *st);
    if (!st) {
        return explain(why, why_capacity, NETGRAFT_E_NO_MEMORY, "no memory");
    }
    st->host = host;
    st->link.fd = -1;
    st->link.kind = config->link_kind;
    st->port_first = FIRST_PORT;
    st->port_last = LAST_PORT;
    st->tcp_due = st->slow_due = st->fast_due = st->router_due = st->flush_due = NETGRAFT_NEVER;
    int32_t error = 0;
    if (config->link_kind > NETGRAFT_LINK_PACKET) {
        error = explain(why, why_capacity, NETGRAFT_E_NOT_SUPPORTED, "this kind of link is not known");
    } else if (config->link_kind != NETGRAFT_LINK_NONE) {
        size_t length = strlen(config->link_name);
        if (length == 0 || length >= sizeof st->link.name) {
            error = explain(why, why_capacity, NETGRAFT_E_INVALID, "an interface has a name of 1 to 15 bytes");
        } else {
            memcpy(st->link.name, config->link_name, length);
            error = take_addresses(st, config, why, why_capacity);
        }
    }
    if (error) {
        free(st);
        return error;
    }
    *self = st;
    return 0;
}

static err_t never_output(struct netif *netif, struct pbuf *p, const ip4_addr_t *to)
{
    (void)to;
    return netif_loop_output(netif, p);
}

static err_t never_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to)
{
    (void)to;
    return netif_loop_output(netif, p);
}

static err_t init_loopback(struct netif *netif)
{
    netif->name[0] = 'l';
    netif->name[1] = 'o';
    netif->mtu = LOOPBACK_MTU;
    netif->mtu6 = LOOPBACK_MTU;
    netif->output = never_output;
    netif->output_ip6 = never_output6;
    netif->flags = NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

static err_t init_nic(struct netif *netif)
{
    struct stack *st = netif->state;
    netif->name[0] = 'e';
    netif->name[1] = 'n';
    netif->mtu = netif->mtu6 = (u16_t)st->link.mtu;
    memcpy(netif->hwaddr, st->link.mac, 6);
    netif->hwaddr_len = 6;
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = link_output;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_IGMP |
                   NETIF_FLAG_MLD6 | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

static void add_loopback(struct stack *st)
{
    ip4_addr_t ip, mask, none;
    IP4_ADDR(&ip, 127, 0, 0, 1);
    IP4_ADDR(&mask, 255, 0, 0, 0);
    ip4_addr_set_zero(&none);
    netif_add(&st->lo, &ip, &mask, &none, st, init_loopback, port_ip_input);
    ip6_addr_t ip6;
    ip6_addr_set_loopback(&ip6);
    netif_ip6_addr_set(&st->lo, 0, &ip6);
    netif_ip6_addr_set_state(&st->lo, 0, IP6_ADDR_PREFERRED);
    netif_set_up(&st->lo);
}

static void add_nic(struct stack *st)
{
    ip4_addr_t ip, mask, gateway;
    ip_addr_t other;
    ip4_addr_set_zero(&ip);
    ip4_addr_set_zero(&mask);
    ip4_addr_set_zero(&gateway);
    if (ip_from(&st->gateway4, &other)) {
        gateway = *ip_2_ip4(&other);
    }
    for (size_t i = 0; i < st->address_count; i++) {
        if (st->addresses[i].ip.family == NETGRAFT_FAMILY_V4 && ip_from(&st->addresses[i].ip, &other)) {
            unsigned prefix = st->addresses[i].prefix;
            ip = *ip_2_ip4(&other);
            ip4_addr_set_u32(&mask, prefix ? lwip_htonl(0xffffffffu << (32 - prefix)) : 0);
        }
    }
    netif_add(&st->nic, &ip, &mask, &gateway, st, init_nic, ethernet_input);
    netif_create_ip6_linklocal_address(&st->nic, 1);
    netif_ip6_addr_set_state(&st->nic, 0, IP6_ADDR_PREFERRED);
    int next = 1;
    for (size_t i = 0; i < st->address_count; i++) {
        if (st->addresses[i].ip.family == NETGRAFT_FAMILY_V6 && ip_from(&st->addresses[i].ip, &other) &&
            IP_IS_V6(&other) && next < LWIP_IPV6_NUM_ADDRESSES) {
            netif_ip6_addr_set(&st->nic, (s8_t)next, ip_2_ip6(&other));
            netif_ip6_addr_set_state(&st->nic, (s8_t)next, IP6_ADDR_PREFERRED);
            next++;
        }
    }
    netif_set_default(&st->nic);
    netif_set_up(&st->nic);
    st->nic.rs_count = 0; /* routers are configured, not asked for */
    st->slow_due = st->now + 1000 * NANOS_PER_MS;
    st->fast_due = st->now;
    if (st->gateway6.family) {
        router_announce(st);
    }
}

static int32_t init(void *self, const char *text, size_t text_length, const int32_t *fds, size_t fd_count, uint64_t now,
                    char *why, size_t why_capacity)
{
    static bool prepared;
    struct stack *st = self;
    if (running) {
        return explain(why, why_capacity, NETGRAFT_E_EXISTS,
                       "lwIP keeps its state in global variables: one instance in a process");
    }
    const char *missing = port_install();
    if (missing) {
        return explain(why, why_capacity, NETGRAFT_E_IO, "this build of liblwip.so does not let %s be replaced", missing);
    }
    if (st->link.kind) {
        int32_t error = link_adopt(st, text, text_length, fds, fd_count, why, why_capacity);
        if (error) {
            return error;
        }
    }
    running = st;
    st->now = now;
    port_seed();
    if (!prepared) {
        lwip_init();
        prepared = true;
    }
    st->up = true;
    st->port_next = (uint16_t)(FIRST_PORT + (unsigned)rand() % (LAST_PORT - FIRST_PORT));
    add_loopback(st);
    if (st->link.kind) {
        add_nic(st);
    }
    if (echo_start(st)) {
        st->link.fd = -1; /* still the caller's */
        return explain(why, why_capacity, NETGRAFT_E_NO_MEMORY, "no memory");
    }
    return 0;
}

static void turn_round(struct stack *st)
{
    input_is_trusted = true; /* nothing can damage it on the way */
    for (int round = 0; st->loop_pending && round < LOOP_ROUNDS; round++) {
        st->loop_pending = false;
        netif_poll(&st->lo);
        if (st->link.kind) {
            netif_poll(&st->nic);
        }
    }
    input_is_trusted = false;
}

static void close_socket(struct stack *st, struct sock *s, bool abort)
{
    if (s->protocol == NETGRAFT_PROTOCOL_TCP) {
        stream_close(st, s, abort);
    } else {
        datagram_close(st, s);
    }
    sock_free(st, s);
}

static void destroy(void *self)
{
    struct stack *st = self;
    if (st->up) {
        for (uint32_t i = 0; i < st->slot_count; i++) {
            struct sock *s = st->slots[i].sock;
            if (s && !s->listener) {
                close_socket(st, s, true);
            }
        }
        while (tcp_active_pcbs) {
            tcp_abort(tcp_active_pcbs);
        }
        while (tcp_tw_pcbs) {
            tcp_abort(tcp_tw_pcbs);
        }
        turn_round(st);
        if (st->icmp4) {
            raw_remove(st->icmp4);
        }
        if (st->icmp6) {
            raw_remove(st->icmp6);
        }
        if (st->link.kind) {
            link_flush(st);
            netif_remove(&st->nic);
        }
        netif_remove(&st->lo);
        running = NULL;
    }
    while (st->spare) {
        struct dgram *next = st->spare->next;
        free(st->spare);
        st->spare = next;
    }
    link_close(st);
    free(st->slots);
    free(st->free_slots);
    free(st);
}

/* ---- The loop ---- */

static void stack_poll(void *self, uint64_t now)
{
    struct stack *st = self;
    st->now = now;
    if (st->paused) {
        return;
    }
    if (st->link.kind) {
        link_receive(st);
    }
    turn_round(st);
    timers_run(st);
    turn_round(st);
    if (st->link.kind && st->flush_due <= now) {
        link_flush(st);
    }
}

static uint64_t next_deadline(void *self)
{
    struct stack *st = self;
    if (st->paused) {
        return NETGRAFT_NEVER;
    }
    if (st->more_input || st->loop_pending) {
        return st->now;
    }
    return LWIP_MIN(st->flush_due, timers_due(st));
}

static int64_t wake_fds(void *self, struct netgraft_wake_fd *fds, size_t capacity)
{
    struct stack *st = self;
    if (!st->link.kind) {
        return 0;
    }
    if (capacity) {
        fds[0] = (struct netgraft_wake_fd){ .fd = st->link.fd, .events = NETGRAFT_READY_IN };
    }
    return 1;
}

static int64_t drain_events(void *self, struct netgraft_event *events, size_t capacity)
{
    struct stack *st = self;
    size_t count = 0;
    while (st->wait_first && count < capacity) {
        struct sock *s = st->wait_first;
        st->wait_first = s->wait_next;
        *(s->wait_next ? &s->wait_next->wait_prev : &st->wait_last) = NULL;
        s->waiting = false;
        s->wait_next = s->wait_prev = NULL;
        uint32_t report = s->ready & (s->mask | NETGRAFT_READY_ERR | NETGRAFT_READY_HUP);
        if (s->added && report) {
            events[count++] = (struct netgraft_event){ .handle = s->handle, .events = report };
        }
    }
    return (int64_t)count;
}

static int32_t register_socket(struct stack *st, uint64_t handle, uint32_t mask, bool added, bool adds)
{
    struct sock *s = find(st, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (s->added == adds) {
        return adds ? NETGRAFT_E_EXISTS : NETGRAFT_E_BAD_HANDLE;
    }
    s->added = added;
    s->mask = mask;
    sock_changed(st, s, true);
    return 0;
}

static int32_t add_fd(void *self, uint64_t handle, uint32_t mask)
{
    return register_socket(self, handle, mask, true, true);
}

static int32_t update_fd(void *self, uint64_t handle, uint32_t mask)
{
    struct sock *s = find(self, handle);
    if (!s || !s->added) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    s->mask = mask;
    sock_changed(self, s, true);
    return 0;
}

static int32_t remove_fd(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    if (!s || !s->added) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    s->added = false;
    return 0;
}

/* ---- Sockets ---- */

#define SPEC(f, k, p) { .family = NETGRAFT_FAMILY_##f, .kind = NETGRAFT_KIND_##k, .protocol = NETGRAFT_PROTOCOL_##p }

static const struct netgraft_socket_spec specs[] = {
    SPEC(V4, STREAM, TCP), SPEC(V6, STREAM, TCP),    SPEC(V4, DATAGRAM, UDP),
    SPEC(V6, DATAGRAM, UDP), SPEC(V4, DATAGRAM, ICMP), SPEC(V6, DATAGRAM, ICMPV6),
};

static int32_t make_socket(void *self, const struct netgraft_socket_spec *spec, uint64_t *handle)
{
    struct stack *st = self;
    bool known = false, kind = false;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        kind |= specs[i].kind == spec->kind;
        known |= specs[i].family == spec->family && specs[i].kind == spec->kind && specs[i].protocol == spec->protocol;
    }
    if (!known) {
        bool family = spec->family == NETGRAFT_FAMILY_V4 || spec->family == NETGRAFT_FAMILY_V6;
        return !family ? NETGRAFT_E_FAMILY_NOT_SUPPORTED
               : kind  ? NETGRAFT_E_PROTOCOL_NOT_SUPPORTED
                       : NETGRAFT_E_KIND_NOT_SUPPORTED;
    }
    struct sock *s = sock_new(st, (uint8_t)spec->family, spec->protocol);
    if (!s) {
        return NETGRAFT_E_NO_MEMORY;
    }
    int32_t error = spec->protocol == NETGRAFT_PROTOCOL_TCP ? stream_open(s) : datagram_open(st, s);
    if (error) {
        sock_free(st, s);
        return error;
    }
    *handle = s->handle;
    s->ready = ready_now(s);
    return 0;
}

/* Brings IPv6's unspecified address to the type that takes IPv4 too, unless the socket wants none. */
static int32_t bind_address(struct stack *st, struct sock *s, const struct netgraft_address *address, ip_addr_t *out)
{
    if (address->ip.family != s->family || !ip_from(&address->ip, out)) {
        return s->family == NETGRAFT_FAMILY_V6 ? NETGRAFT_E_INVALID : NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    }
    bool v6 = s->family == NETGRAFT_FAMILY_V6, mapped = v6 && !IP_IS_V6(out);
    if (mapped && s->opt.v6_only) {
        return NETGRAFT_E_INVALID;
    }
    if (ip_addr_isany(out)) {
        if (v6 && !mapped && !s->opt.v6_only) {
            *out = *IP_ANY_TYPE;
        }
        return 0;
    }
    bool group = s->protocol == NETGRAFT_PROTOCOL_UDP && ip_addr_ismulticast(out);
    if (!group && !is_own(st, out)) {
        return NETGRAFT_E_ADDRESS_NOT_AVAILABLE;
    }
    if (IP_IS_V6(out) && ip6_addr_islinklocal(ip_2_ip6(out)) && st->link.kind) {
        ip6_addr_assign_zone(ip_2_ip6(out), IP6_UNKNOWN, &st->nic);
    }
    return 0;
}

static int32_t sock_bind(void *self, uint64_t handle, const struct netgraft_address *address)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (s->bound || s->phase != PHASE_FRESH) {
        return NETGRAFT_E_INVALID;
    }
    ip_addr_t ip;
    int32_t error = bind_address(st, s, address, &ip);
    if (error) {
        return error;
    }
    bool tcp = s->protocol == NETGRAFT_PROTOCOL_TCP, udp = s->protocol == NETGRAFT_PROTOCOL_UDP;
    u8_t type = IP_GET_TYPE(&ip);
    if (tcp) {
        IP_SET_TYPE_VAL(s->pcb.tcp->local_ip, type);
        IP_SET_TYPE_VAL(s->pcb.tcp->remote_ip, type);
    } else if (udp) {
        IP_SET_TYPE_VAL(s->pcb.udp->local_ip, type);
        IP_SET_TYPE_VAL(s->pcb.udp->remote_ip, type);
    }
    error = bind_port(st, s, &ip, address->port);
    if (error) {
        return error;
    }
    s->by_program = true;
    s->explicit_ip = !ip_addr_isany(&ip);
    return 0;
}

static int32_t sock_connect(void *self, uint64_t handle, const struct netgraft_address *address, uint64_t now)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_connect(st, s, address) : datagram_connect(st, s, address);
}

static int32_t sock_disconnect(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? NETGRAFT_E_NOT_SUPPORTED : datagram_disconnect(self, s);
}

static int32_t local_addr(void *self, uint64_t handle, struct netgraft_address *address)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    *address = s->local;
    return 0;
}

static int32_t peer_addr(void *self, uint64_t handle, struct netgraft_address *address)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (!s->has_peer || s->peer.port == 0) {
        return NETGRAFT_E_NOT_CONNECTED;
    }
    *address = s->peer;
    return 0;
}

static int64_t sock_send(void *self, uint64_t handle, const void *data, size_t length,
                         const struct netgraft_address *to, uint32_t flags, uint64_t now)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_send(st, s, data, length, flags)
                                                : datagram_send(st, s, data, length, to);
}

static int32_t sock_recv(void *self, uint64_t handle, void *buffer, size_t capacity, uint32_t flags, uint64_t now,
                         struct netgraft_received *received)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_recv(st, s, buffer, capacity, flags, received)
                                                : datagram_recv(st, s, buffer, capacity, flags, received);
}

static int64_t sock_recv_with(void *self, uint64_t handle, uint64_t now, netgraft_lend take, void *caller)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_recv_with(st, s, take, caller) : NETGRAFT_E_NOT_SUPPORTED;
}

static int32_t sock_shutdown(void *self, uint64_t handle, uint32_t how, uint64_t now)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (how > NETGRAFT_SHUTDOWN_BOTH) {
        return NETGRAFT_E_INVALID;
    }
    if (s->protocol == NETGRAFT_PROTOCOL_TCP) {
        return stream_shutdown(st, s, how);
    }
    if (!s->has_peer) {
        return NETGRAFT_E_NOT_CONNECTED;
    }
    s->shut_in |= how != NETGRAFT_SHUTDOWN_WRITE;
    s->shut_out |= how != NETGRAFT_SHUTDOWN_READ;
    sock_changed(st, s, true);
    return 0;
}

static int32_t sock_end(struct stack *st, uint64_t handle, uint64_t now, bool abort)
{
    struct sock *s = find(st, handle);
    st->now = now;
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    close_socket(st, s, abort);
    return 0;
}

static int32_t sock_close(void *self, uint64_t handle, uint64_t now)
{
    return sock_end(self, handle, now, false);
}

static int32_t sock_abort(void *self, uint64_t handle, uint64_t now)
{
    return sock_end(self, handle, now, true);
}

static int64_t readiness(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    return s ? (int64_t)ready_now(s) : NETGRAFT_E_BAD_HANDLE;
}

static int32_t sock_listen(void *self, uint64_t handle, uint32_t backlog)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_listen(self, s, backlog) : NETGRAFT_E_NOT_SUPPORTED;
}

static int32_t sock_accept(void *self, uint64_t handle, uint64_t *connection, struct netgraft_address *peer)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_accept(self, s, connection, peer) : NETGRAFT_E_NOT_SUPPORTED;
}

static uint64_t send_room(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return 0;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_room(s) : NETGRAFT_UNKNOWN_ROOM;
}

static int64_t queued_in(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? s->rx_len : s->first ? s->first->data->tot_len : 0;
}

static int64_t queued_out(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    bool stream = s->protocol == NETGRAFT_PROTOCOL_TCP && s->phase == PHASE_OPEN && s->pcb.tcp;
    return stream ? s->pcb.tcp->snd_lbb - s->pcb.tcp->lastack - (s->shut_out ? 1 : 0) : 0;
}

static int32_t take_error(void *self, uint64_t handle)
{
    struct sock *s = find(self, handle);
    return s ? take_pending(self, s) : NETGRAFT_E_BAD_HANDLE;
}

static int32_t tcp_info(void *self, uint64_t handle, struct netgraft_tcp_info *out)
{
    struct sock *s = find(self, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    return s->protocol == NETGRAFT_PROTOCOL_TCP ? stream_info(s, out) : NETGRAFT_E_NOT_SUPPORTED;
}

const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested)
{
    static const struct netgraft_stack_v1 table = {
        .size = sizeof table,
        .version = NETGRAFT_VERSION,
        .name = "lwip",
        .version_text = "lwIP " LWIP_VERSION_STRING,
        .needs = "liblwip.so; for a link /dev/net/tun or AF_PACKET (CAP_NET_ADMIN, CAP_NET_RAW)",
        .sockets = specs,
        .socket_count = sizeof specs / sizeof *specs,
        .options = option_names,
        .option_count = OPTION_COUNT,
        .create = create,
        .destroy = destroy,
        .init = init,
        .poll = stack_poll,
        .drain_events = drain_events,
        .add_fd = add_fd,
        .update_fd = update_fd,
        .remove_fd = remove_fd,
        .socket = make_socket,
        .bind = sock_bind,
        .connect = sock_connect,
        .local_addr = local_addr,
        .peer_addr = peer_addr,
        .send = sock_send,
        .recv = sock_recv,
        .recv_with = sock_recv_with,
        .shutdown = sock_shutdown,
        .close = sock_close,
        .readiness = readiness,
        .pre_init = link_pre_init,
        .next_deadline = next_deadline,
        .wake_fds = wake_fds,
        .listen = sock_listen,
        .accept = sock_accept,
        .disconnect = sock_disconnect,
        .abort = sock_abort,
        .send_room = send_room,
        .queued_in = queued_in,
        .queued_out = queued_out,
        .take_error = take_error,
        .set_option = option_set,
        .get_option = option_get,
        .tcp_info = tcp_info,
        .interfaces = inet_interfaces,
        .addresses = inet_addresses,
        .routes = inet_routes,
        .tcp_receive_buffer = inet_buffer,
        .tcp_send_buffer = inet_buffer,
        .tcp_sack = inet_sack,
        .tcp_recovery = inet_recovery,
        .statistics = inet_statistics,
        .port_range = inet_port_range,
        .set_port_range = inet_set_port_range,
        .forwarding = inet_forwarding,
        .pause = inet_pause,
        .resume = inet_resume,
    };
    return requested >> 16 == NETGRAFT_VERSION_MAJOR ? &table : NULL;
}
