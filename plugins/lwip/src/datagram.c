/* UDP sockets, and what echo sockets have in common with them. */
#include <stdlib.h>

#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "stack.h"

/* The most bytes of a datagram: 16 bits of length less the headers that it counts (RFC 768, RFC 791). */
#define MOST_V4 (65535 - 20 - 8)
/* lwIP counts the header of IPv6 into the 16 bits of a buffer's length. */
#define MOST_V6 (65535 - 40 - 8)
/* lwIP copies a packet to this host into one buffer with room for a link header, whose length has 16 bits. */
#define MOST_LOOPBACK (LOOPBACK_MTU - 40 - 8)
/* What a datagram costs beside its bytes, towards SO_RCVBUF. */
#define OVERHEAD 256
#define SPARE_MAX 1024
/* From here on headers get a buffer of their own, for the sum would not fit 16 bits. */
#define LARGE 65000

static void on_udp(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *from, u16_t port)
{
    struct sock *s = arg;
    (void)pcb;
    running->stats.udp_received++;
    datagram_put(running, s, p, from, port);
}

int32_t datagram_open(struct stack *st, struct sock *s)
{
    if (s->protocol == NETGRAFT_PROTOCOL_UDP) {
        struct udp_pcb *pcb = udp_new_ip_type(s->family == NETGRAFT_FAMILY_V6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
        if (!pcb) {
            return NETGRAFT_E_NO_MEMORY;
        }
        s->pcb.udp = pcb;
        udp_recv(pcb, on_udp, s);
        datagram_apply(s);
    }
    list_add(&st->datagrams, s);
    return 0;
}

void datagram_apply(struct sock *s)
{
    struct udp_pcb *pcb = s->pcb.udp;
    if (!pcb) {
        return;
    }
    pcb->so_options = (u8_t)((s->opt.reuse ? SOF_REUSEADDR : 0) | (s->opt.broadcast ? SOF_BROADCAST : 0));
    pcb->mcast_ttl = s->opt.multicast_ttl;
    udp_set_flags(pcb, UDP_FLAGS_MULTICAST_LOOP);
    if (!s->opt.multicast_loop) {
        udp_clear_flags(pcb, UDP_FLAGS_MULTICAST_LOOP);
    }
}

/* Queues what came for a socket, with the addresses of the packet in hand. */
void datagram_put(struct stack *st, struct sock *s, struct pbuf *data, const ip_addr_t *from, uint16_t port)
{
    struct dgram *d = st->spare;
    bool full = s->queued + data->tot_len > s->opt.receive_buffer && s->first;
    if (full || s->shut_in) {
        st->stats.udp_receive_overflows += full;
        pbuf_free(data);
        return;
    }
    if (d) {
        st->spare = d->next;
        st->spare_count--;
    } else if (!(d = malloc(sizeof *d))) {
        pbuf_free(data);
        return;
    }
    *d = (struct dgram){ .data = data, .from = *from, .port = port };
    ip_addr_copy(d->to, *ip_current_dest_addr());
    d->interface = ip_current_input_netif() == &st->nic ? 2 : 1;
    if (ip_current_is_v6()) {
        d->hops = IP6H_HOPLIM(ip6_current_header());
        d->traffic_class = IP6H_TC(ip6_current_header());
    } else {
        d->hops = IPH_TTL(ip4_current_header());
        d->traffic_class = IPH_TOS(ip4_current_header());
    }
    *(s->last ? &s->last->next : &s->first) = d;
    s->last = d;
    s->queued += data->tot_len + OVERHEAD;
    sock_changed(st, s, true);
}

static void drop_first(struct stack *st, struct sock *s)
{
    struct dgram *d = s->first;
    s->first = d->next;
    if (!s->first) {
        s->last = NULL;
    }
    s->queued -= d->data->tot_len + OVERHEAD;
    pbuf_free(d->data);
    if (st->spare_count < SPARE_MAX) {
        d->next = st->spare;
        st->spare = d;
        st->spare_count++;
    } else {
        free(d);
    }
}

static void set_type(struct udp_pcb *pcb, const ip_addr_t *like)
{
    IP_SET_TYPE_VAL(pcb->local_ip, IP_GET_TYPE(like));
    IP_SET_TYPE_VAL(pcb->remote_ip, IP_GET_TYPE(like));
}

/* Gives an unbound socket a port. */
static int32_t auto_bind(struct stack *st, struct sock *s)
{
    if (s->bound) {
        return 0;
    }
    if (s->protocol != NETGRAFT_PROTOCOL_UDP) {
        return bind_port(st, s, IP_ADDR_ANY, 0);
    }
    bool dual = s->family == NETGRAFT_FAMILY_V6 && !s->opt.v6_only;
    if (dual) {
        IP_SET_TYPE_VAL(s->pcb.udp->local_ip, IPADDR_TYPE_ANY);
    }
    ip_addr_t any = s->pcb.udp->local_ip;
    return bind_port(st, s, dual ? IP_ANY_TYPE : &any, 0);
}

static bool is_broadcast(struct stack *st, const ip_addr_t *to)
{
    if (IP_IS_V6(to)) {
        return false;
    }
    return ip4_addr_get_u32(ip_2_ip4(to)) == PP_HTONL(0x7fffffff) ||
           ip4_addr_isbroadcast(ip_2_ip4(to), st->link.kind ? &st->nic : &st->lo);
}

/* The address from which a packet to `to` leaves. */
static bool source(struct stack *st, const ip_addr_t *to, ip_addr_t *out)
{
    if (is_own(st, to)) {
        ip_addr_copy(*out, *to);
        return true;
    }
    if (!IP_IS_V6(to)) {
        struct netif *netif = ip4_addr_isloopback(ip_2_ip4(to)) ? &st->lo : ip4_route(ip_2_ip4(to));
        if (!netif) {
            return false;
        }
        ip_addr_copy_from_ip4(*out, *netif_ip4_addr(netif));
        return true;
    }
    const ip_addr_t *from = st->link.kind ? ip6_select_source_address(&st->nic, ip_2_ip6(to)) : NULL;
    if (from) {
        ip_addr_copy(*out, *from);
    }
    return from != NULL;
}

int32_t datagram_connect(struct stack *st, struct sock *s, const struct netgraft_address *address)
{
    ip_addr_t to, from;
    int32_t error = target(st, s, address, &to);
    if (!error && is_broadcast(st, &to) && !s->opt.broadcast) {
        error = NETGRAFT_E_ACCESS_DENIED;
    }
    if (!error && !source(st, &to, &from)) {
        error = NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    if (!error && s->explicit_ip && s->protocol == NETGRAFT_PROTOCOL_UDP &&
        IP_IS_V6_VAL(s->pcb.udp->local_ip) != IP_IS_V6(&to)) {
        error = NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    if (!error) {
        error = auto_bind(st, s);
    }
    if (error) {
        return error;
    }
    if (s->protocol == NETGRAFT_PROTOCOL_UDP) {
        struct udp_pcb *pcb = s->pcb.udp;
        if (!s->explicit_ip) {
            set_type(pcb, &to);
            ip_addr_copy(pcb->local_ip, from);
        }
        err_t err = udp_connect(pcb, &to, address->port);
        if (err != ERR_OK) {
            return error_of(err);
        }
    }
    if (!s->explicit_ip) {
        ip_to_family(&from, s->family, &s->local.ip);
    }
    s->has_peer = true;
    s->peer = *address;
    ip_to_family(&to, s->family, &s->peer.ip);
    s->error = 0;
    while (s->first) {
        drop_first(st, s); /* they came before the peer was chosen */
    }
    sock_changed(st, s, false);
    return 0;
}

int32_t datagram_disconnect(struct stack *st, struct sock *s)
{
    s->has_peer = false;
    if (s->protocol == NETGRAFT_PROTOCOL_UDP) {
        struct udp_pcb *pcb = s->pcb.udp;
        udp_disconnect(pcb);
        if (!s->explicit_ip) {
            bool v6 = s->family == NETGRAFT_FAMILY_V6;
            ip_addr_set_any(v6, &pcb->local_ip);
            IP_SET_TYPE_VAL(pcb->local_ip, !v6 ? IPADDR_TYPE_V4 : s->opt.v6_only ? IPADDR_TYPE_V6 : IPADDR_TYPE_ANY);
        }
    }
    if (!s->explicit_ip) {
        memset(s->local.ip.bytes, 0, sizeof s->local.ip.bytes);
    }
    sock_changed(st, s, false);
    return 0;
}

static int64_t udp_out(struct stack *st, struct sock *s, const void *data, size_t length, const ip_addr_t *to,
                       uint16_t port)
{
    struct udp_pcb *pcb = s->pcb.udp;
    ip_addr_t from;
    struct netif *netif;
    bool loopback = is_own(st, to) || (!IP_IS_V6(to) && ip4_addr_isloopback(ip_2_ip4(to)));
    if (!source(st, to, &from)) {
        return NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    if (s->explicit_ip && !ip_addr_ismulticast(&pcb->local_ip)) {
        if (IP_IS_V6_VAL(pcb->local_ip) != IP_IS_V6(to)) {
            return NETGRAFT_E_NETWORK_UNREACHABLE;
        }
        ip_addr_copy(from, pcb->local_ip);
    }
    /* Packets to this host pass the interface whose address they carry, for lwIP turns them round there. */
    bool on_nic = st->link.kind && (!loopback || (!IP_IS_V6(to) ? ip4_addr_cmp(ip_2_ip4(to), netif_ip4_addr(&st->nic))
                                                               : netif_get_ip6_addr_match(&st->nic, ip_2_ip6(to)) >= 0));
    netif = on_nic ? &st->nic : &st->lo;
    struct pbuf *p = pbuf_alloc(length > LARGE ? PBUF_RAW : PBUF_TRANSPORT, (u16_t)length, PBUF_RAM);
    if (!p) {
        return NETGRAFT_E_NO_BUFFERS;
    }
    pbuf_take(p, data, (u16_t)length);
    pcb->ttl = IP_IS_V6(to) ? s->opt.hops6 : s->opt.ttl;
    pcb->tos = IP_IS_V6(to) ? s->opt.class6 : s->opt.tos;
    err_t err = udp_sendto_if_src(pcb, p, to, port, netif, &from);
    pbuf_free(p);
    if (err == ERR_MEM || err == ERR_BUF) {
        return NETGRAFT_E_AGAIN;
    }
    if (err != ERR_OK) {
        return error_of(err);
    }
    st->stats.udp_sent++;
    return (int64_t)length;
}

int64_t datagram_send(struct stack *st, struct sock *s, const void *data, size_t length,
                      const struct netgraft_address *to)
{
    if (s->error) {
        return take_pending(st, s);
    }
    if (s->shut_out) {
        return NETGRAFT_E_BROKEN_PIPE;
    }
    if (!to && !s->has_peer) {
        return NETGRAFT_E_DESTINATION_REQUIRED;
    }
    bool udp = s->protocol == NETGRAFT_PROTOCOL_UDP;
    if (to && udp && to->port == 0) {
        return NETGRAFT_E_INVALID;
    }
    ip_addr_t ip;
    int32_t error = target(st, s, to ? to : &s->peer, &ip);
    if (error) {
        return error;
    }
    if (is_broadcast(st, &ip) && !s->opt.broadcast) {
        return NETGRAFT_E_ACCESS_DENIED;
    }
    if (length > (is_own(st, &ip) ? MOST_LOOPBACK : IP_IS_V6(&ip) ? MOST_V6 : MOST_V4)) {
        return NETGRAFT_E_MESSAGE_TOO_LONG;
    }
    if (s->protocol != NETGRAFT_PROTOCOL_UDP && length < 8) {
        return NETGRAFT_E_INVALID;
    }
    error = auto_bind(st, s);
    if (error) {
        return error == NETGRAFT_E_ADDRESS_IN_USE ? NETGRAFT_E_AGAIN : error;
    }
    return udp ? udp_out(st, s, data, length, &ip, (to ? to : &s->peer)->port)
               : echo_send(st, s, data, length, &ip);
}

int32_t datagram_recv(struct stack *st, struct sock *s, void *buffer, size_t capacity, uint32_t flags,
                      struct netgraft_received *received)
{
    if (s->error) {
        return take_pending(st, s);
    }
    struct dgram *d = s->first;
    if (!d) {
        return s->shut_in ? 0 : NETGRAFT_E_AGAIN;
    }
    size_t take = capacity < d->data->tot_len ? capacity : d->data->tot_len;
    received->len = take ? pbuf_copy_partial(d->data, buffer, (u16_t)take, 0) : 0;
    received->full_len = d->data->tot_len;
    ip_to_family(&d->from, s->family, &received->from.ip);
    received->from.port = d->port;
    if (IP_IS_V6(&d->from) && ip6_addr_islinklocal(ip_2_ip6(&d->from))) {
        received->from.scope_id = d->interface;
    }
    ip_to_family(&d->to, s->family, &received->to);
    received->interface_index = d->interface;
    received->hop_limit = d->hops;
    received->traffic_class = d->traffic_class;
    if (!(flags & NETGRAFT_RECV_PEEK)) {
        drop_first(st, s);
        sock_changed(st, s, false);
    }
    return 0;
}

void datagram_close(struct stack *st, struct sock *s)
{
    list_remove(&st->datagrams, s);
    while (s->first) {
        drop_first(st, s);
    }
    if (s->protocol == NETGRAFT_PROTOCOL_UDP && s->pcb.udp) {
        udp_remove(s->pcb.udp);
        s->pcb.udp = NULL;
    }
}
