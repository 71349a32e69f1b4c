/* ICMP echo sockets (icmp(7)), and ICMP errors for UDP sockets (RFC 1122 section 4.1.3.3, RFC 4443 section 3.1). */
#include "lwip/inet_chksum.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include "stack.h"

#define ECHO_HEADER 8

static struct sock *echo_of(struct stack *st, uint8_t protocol, uint16_t identifier)
{
    for (struct sock *s = st->datagrams; s; s = s->kind_next) {
        if (s->protocol == protocol && s->bound && s->local.port == identifier) {
            return s;
        }
    }
    return NULL;
}

int32_t echo_bind(struct stack *st, struct sock *s, uint16_t identifier)
{
    for (struct sock *other = st->datagrams; other; other = other->kind_next) {
        if (other != s && other->protocol == s->protocol && other->bound && other->local.port == identifier &&
            !(other->by_program && other->opt.reuse && s->opt.reuse)) {
            return NETGRAFT_E_ADDRESS_IN_USE;
        }
    }
    return 0;
}

/* A port is dead: the connected socket that sent there gets the error. `inner` is the packet that came back. */
static void refuse(struct stack *st, const uint8_t *inner, size_t length, bool v6)
{
    size_t header = v6 ? 40 : length ? (size_t)(inner[0] & 15) * 4 : 0;
    if (length < header + 8 || header < 20 || inner[v6 ? 6 : 9] != IP_PROTO_UDP) {
        return;
    }
    uint16_t from = (uint16_t)(inner[header] << 8 | inner[header + 1]);
    uint16_t to = (uint16_t)(inner[header + 2] << 8 | inner[header + 3]);
    struct netgraft_ip peer = { .family = v6 ? NETGRAFT_FAMILY_V6 : NETGRAFT_FAMILY_V4 };
    ip_addr_t ip;
    memcpy(peer.bytes, inner + (v6 ? 24 : 16), v6 ? 16 : 4);
    ip_from(&peer, &ip);
    for (struct sock *s = st->datagrams; s; s = s->kind_next) {
        if (s->protocol == NETGRAFT_PROTOCOL_UDP && s->has_peer && s->pcb.udp->local_port == from &&
            s->pcb.udp->remote_port == to && ip_addr_cmp_zoneless(&s->pcb.udp->remote_ip, &ip)) {
            s->error = NETGRAFT_E_CONNECTION_REFUSED;
            sock_changed(st, s, true);
        }
    }
}

/* Sees each ICMP packet. Answers 1 for one that it took. */
static u8_t on_icmp(void *arg, struct raw_pcb *pcb, struct pbuf *p, const ip_addr_t *from)
{
    struct stack *st = arg;
    bool v6 = pcb == st->icmp6;
    uint8_t bytes[ECHO_HEADER + 128];
    size_t skip = ip_current_header_tot_len(); /* raw sockets see the IP header */
    size_t length = pbuf_copy_partial(p, bytes, sizeof bytes, (u16_t)skip);
    if (length < ECHO_HEADER) {
        return 0;
    }
    if (bytes[0] == (v6 ? ICMP6_TYPE_DUR : ICMP_DUR) && bytes[1] == (v6 ? ICMP6_DUR_PORT : ICMP_DUR_PORT)) {
        refuse(st, bytes + ECHO_HEADER, length - ECHO_HEADER, v6);
        return 0;
    }
    if (bytes[0] != (v6 ? ICMP6_TYPE_EREP : ICMP_ER)) {
        return 0;
    }
    uint8_t protocol = v6 ? NETGRAFT_PROTOCOL_ICMPV6 : NETGRAFT_PROTOCOL_ICMP;
    struct sock *s = echo_of(st, protocol, (uint16_t)(bytes[4] << 8 | bytes[5]));
    if (!s) {
        return 0;
    }
    ip_addr_t peer;
    if (s->has_peer && (!ip_from(&s->peer.ip, &peer) || !ip_addr_cmp_zoneless(&peer, from))) {
        return 0;
    }
    pbuf_remove_header(p, skip);
    u16_t sum = !v6 ? inet_chksum_pbuf(p) : port_ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip6_current_src_addr(),
                                                             ip6_current_dest_addr());
    if (sum != 0) {
        pbuf_free(p);
        return 1;
    }
    datagram_put(st, s, p, from, 0);
    return 1;
}

int32_t echo_start(struct stack *st)
{
    st->icmp4 = raw_new_ip_type(IPADDR_TYPE_V4, IP_PROTO_ICMP);
    st->icmp6 = raw_new_ip_type(IPADDR_TYPE_V6, IP6_NEXTH_ICMP6);
    if (!st->icmp4 || !st->icmp6) {
        return NETGRAFT_E_NO_MEMORY;
    }
    raw_bind(st->icmp6, IP6_ADDR_ANY);
    st->icmp6->chksum_reqd = 1;
    st->icmp6->chksum_offset = 2;
    raw_recv(st->icmp4, on_icmp, st);
    raw_recv(st->icmp6, on_icmp, st);
    return 0;
}

/* Sends a request with the socket's own identifier; lwIP sums what goes to IPv6. */
int64_t echo_send(struct stack *st, struct sock *s, const void *data, size_t length, const ip_addr_t *to)
{
    bool v6 = s->protocol == NETGRAFT_PROTOCOL_ICMPV6;
    const uint8_t *bytes = data;
    if (IP_IS_V6(to) != v6 || length < ECHO_HEADER || bytes[0] != (v6 ? ICMP6_TYPE_EREQ : ICMP_ECHO) || bytes[1]) {
        return NETGRAFT_E_INVALID;
    }
    struct pbuf *p = pbuf_alloc(PBUF_IP, (u16_t)length, PBUF_RAM);
    if (!p) {
        return NETGRAFT_E_NO_BUFFERS;
    }
    pbuf_take(p, data, (u16_t)length);
    uint8_t *out = p->payload;
    out[2] = out[3] = 0;
    out[4] = (uint8_t)(s->local.port >> 8);
    out[5] = (uint8_t)s->local.port;
    struct raw_pcb *pcb = v6 ? st->icmp6 : st->icmp4;
    if (!v6) {
        uint16_t sum = (uint16_t)~port_lwip_standard_chksum(out, (int)length);
        memcpy(out + 2, &sum, 2);
    }
    pcb->ttl = v6 ? s->opt.hops6 : s->opt.ttl;
    pcb->tos = v6 ? s->opt.class6 : s->opt.tos;
    err_t err;
    if (is_own(st, to)) {
        bool on_nic = st->link.kind && (v6 ? netif_get_ip6_addr_match(&st->nic, ip_2_ip6(to)) >= 0
                                           : ip4_addr_cmp(ip_2_ip4(to), netif_ip4_addr(&st->nic)));
        err = raw_sendto_if_src(pcb, p, to, on_nic ? &st->nic : &st->lo, to);
    } else {
        err = raw_sendto(pcb, p, to);
    }
    pbuf_free(p);
    if (err == ERR_MEM || err == ERR_BUF) {
        return NETGRAFT_E_AGAIN;
    }
    return err == ERR_OK ? (int64_t)length : error_of(err);
}
